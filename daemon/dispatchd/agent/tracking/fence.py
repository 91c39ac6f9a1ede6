"""Fence: the endpoint's last answer about each claim, and the right to begin a process under it.

It is in memory alone. A daemon that has just started knows nothing, so it asks: the machine may have been off,
or the job handed to another one, for any time.
"""

from datetime import datetime, timedelta
from math import inf
from typing import Final

import structlog
from attrs import define, field

from dispatchd.agent.domain.fence import ClaimAnswer, may_start
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Clock, Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.errors import JobClosed, NotConfirmed, RemoteError

_SHORTEST_PAUSE_S: Final = 1.0
"""Time from the first repeated accept of a claim to the second (seconds); it doubles from there."""

_MOST_DOUBLINGS: Final = 6
"""Most times that this pause is doubled (count); the longest is about a minute."""

_TOO_SHORT: Final = 3
"""Repeated accept that shows, after others with pauses of seconds, that a lease is too short for any start (count)."""


@define(kw_only=True)
class _Asks:
    """Repeated accepts of a claim, one soon after the other: their number, and the time of the next one."""

    claim_token: str
    next_at: datetime
    count: int = 0

    @property
    def pause(self) -> timedelta:
        """Time from one to the next."""
        doublings = min(self.count, _MOST_DOUBLINGS)
        return timedelta(seconds=_SHORTEST_PAUSE_S * 2**doublings)

    def is_past(self, now: datetime) -> bool:
        """Return whether the next one was due so long ago that nobody needed it then, for want of a slot."""
        return now > self.next_at + self.pause


@define
class Fence:
    """Stores the newest answer about every tracked job."""

    _tracker: Tracker
    _clock: Clock
    _answers: dict[str, ClaimAnswer] = field(factory=dict, init=False)
    _asks: dict[str, _Asks] = field(factory=dict, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def accept(self, source: Source, record: TrackedJob) -> bool:
        """Send an accept, store its answer, and return whether the job may still be run.

        A cancel request in the answer is durable on return.

        Raises:
            JobClosed: This machine doesn't hold the job.
            RemoteError: The accept failed in another way: a leaf.
        """
        asked_at = self._clock.now()
        try:
            answer = await source.accept(record)
        except JobClosed:
            self.note(record, asked_at, holds=False)
            raise
        if answer.cancel_requested:
            await self._tracker.cancel(record.job.id, "Cancelled before it started.")
        self.note(record, asked_at, holds=True)
        asks = self._asks.get(record.job.id)
        if asks is not None:
            # The time that the answer took is no time in which nobody needed it.
            asks.next_at = max(asks.next_at, self._clock.now())
        return not answer.cancel_requested

    async def confirm(self, source: Source | None, record: TrackedJob) -> None:
        """Return if the command of a job may begin. If that isn't known, ask the endpoint once.

        Raises:
            NotConfirmed: It must not begin.
        """
        if record.phase is not Phase.RUNNING:
            raise NotConfirmed(reason=f"the job is {record.phase}")
        if record.stop_requested:
            raise NotConfirmed(reason="somebody has ended it")
        if source is None or self.allows(record):
            return
        try:
            may_run = await self.accept(source, record)
        except RemoteError as error:
            raise NotConfirmed(reason=str(error)) from error
        if not may_run:
            raise NotConfirmed(reason="somebody has cancelled it")
        # The answer counts from the time of the call: it may have taken longer than the lease, or a delivery came.
        newest = self._tracker.get(record.job.id)
        is_wanted = (
            newest is not None
            and newest.phase is Phase.RUNNING
            and not newest.stop_requested
        )
        if newest is None or not is_wanted or not self.allows(newest):
            raise NotConfirmed(reason="the endpoint's answer doesn't hold any more")

    def note(self, record: TrackedJob, asked_at: datetime, *, holds: bool) -> None:
        """Store the answer to an accept or a heartbeat.

        Args:
            record: The record that the call was about.
            asked_at: Time of the call.
            holds: True if the endpoint has agreed; False after 404, 409 and 410.
        """
        token = record.job.claim_token
        known = self._answers.get(record.job.id)
        if (
            known is not None
            and known.claim_token == token
            and asked_at < known.asked_at
        ):
            return
        answer = ClaimAnswer(claim_token=token, asked_at=asked_at, holds=holds)
        self._answers[record.job.id] = answer

    def allows(self, record: TrackedJob) -> bool:
        """Return whether a process of an accepted job may begin at this moment."""
        owes_accept = record.job.id in self._tracker.repeats
        last = self._answers.get(record.job.id)
        allowed = not owes_accept and may_start(record, last, self._clock.now())
        if allowed:
            self._asks.pop(record.job.id, None)
        return allowed

    def left_s(self, record: TrackedJob) -> float:
        """Return for how long a process of a job may still begin (seconds): inf without a lease, 0 if it may not now."""
        if not self.allows(record):
            return 0.0
        last, lease_s = self._answers.get(record.job.id), record.job.lease_s
        if last is None or lease_s is None:
            return inf
        return max(0.0, lease_s - (self._clock.now() - last.asked_at).total_seconds())

    def has_lost(self, record: TrackedJob) -> bool:
        """Return whether the endpoint has said that this machine doesn't hold a job under its newest claim."""
        last = self._answers.get(record.job.id)
        return (
            last is not None
            and not last.holds
            and last.claim_token == record.job.claim_token
        )

    def ask(self, record: TrackedJob) -> None:
        """Have the accept of a job repeated. The tracker's bell rings once it has been answered.

        If that has just been done, so that the lease is over before a process can begin, it is done later (`asks_at`).
        """
        job, now = record.job, self._clock.now()
        if job.id in self._tracker.repeats:
            return
        asks = self._asks.get(job.id)
        if asks is None or asks.claim_token != job.claim_token or asks.is_past(now):
            asks = self._asks[job.id] = _Asks(claim_token=job.claim_token, next_at=now)
        if now < asks.next_at:
            return
        asks.count, asks.next_at = asks.count + 1, now + asks.pause
        self._log.info("accept_repeated_before_start", **job_context(record))
        if asks.count == _TOO_SHORT:
            self._log.warning(
                "lease_too_short",
                lease_s=job.lease_s,
                hint="it is over before a process can begin, so nothing starts: the endpoint has to grant more, or answer sooner",
                **job_context(record),
            )
        self._tracker.repeats.add(job.id)
        self._tracker.changed.notify()

    def asks_at(self, record: TrackedJob) -> datetime | None:
        """Return the time at which a delayed repetition of an accept is due, or None if none is delayed."""
        asks = self._asks.get(record.job.id)
        is_delayed = asks is not None and asks.next_at > self._clock.now()
        return asks.next_at if asks is not None and is_delayed else None

    def forget_gone(self) -> None:
        """Forget the answers about jobs that are no longer tracked."""
        for entries in (self._answers, self._asks):
            for job_id in [known for known in entries if not self._tracker.get(known)]:
                del entries[job_id]
