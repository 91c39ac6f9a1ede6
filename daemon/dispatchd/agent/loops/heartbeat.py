"""Heartbeat: extend leases, and receive cancel requests and decisions, for jobs whose endpoint offers heartbeats.

A job beats from its pull until its finish has been answered. This machine holds it even while only its finish is
refused, and no other machine is to run it. The first beat follows the accept at once: then the endpoint knows
that this machine has heartbeats, and what its silence would mean. Each change of the phase sends a beat too, so
that people see at once that a run has begun, waits for its next attempt, or is parked.
"""

from datetime import datetime
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, field

from dispatchd.agent.domain.delivery import Resolution
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.loops.progress import ProgressFeed
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.log_watch import LogWatch
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.errors import JobClosed, NotPossible, RemoteError
from dispatchd.protocol.extensions import RESOLVE

_LOOP: Final = "heartbeat"

_BEATS_IN_A_LEASE: Final = 6
"""Beats in the time of a lease (count), so that five can be missed before it is lost."""

_LONGEST_PAUSE_S: Final = 30.0
"""Longest time between two beats (seconds), because a cancel request waits for the next one."""

_SHORTEST_PAUSE_S: Final = 0.5
"""Shortest time between two beats (seconds), however short a lease the endpoint grants."""

_GATHER_S: Final = 0.1
"""Time for which changes are gathered before the leases are looked at again (seconds)."""

_LOGGED: Final = 200
"""Longest text of the endpoint in a line of the log (characters)."""

_LEASED: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.NEEDS_ATTENTION,
    Phase.FINISHING,
)

_NOT_AT_ONCE: Final = (Phase.PENDING_ACCEPT, Phase.FINISHING)
"""Phases that need no beat at once: the accept, or the finish, is on its way."""


@define
class _Rhythm:
    """Beats of a job under one claim: the time of the next one, on the clock of the event loop."""

    claim_token: str
    due: float
    sent: Phase | None = None
    """Phase in the newest beat; None before the first."""


@define(kw_only=True)
class HeartbeatLoop:
    """Beats for every leased job, each in its own rhythm."""

    source: Source
    tracker: Tracker
    fence: Fence
    progress: ProgressFeed
    context: Context
    logs: LogWatch = field(factory=LogWatch)
    _rhythms: dict[str, _Rhythm] = field(factory=dict, init=False)
    """Rhythms by job. A job whose claim is lost has none: its run continues, and another beat would change nothing."""
    _work: KeyedTasks[str] = field(init=False)
    _decisions: KeyedTasks[str] = field(init=False)
    """Decisions of the endpoint that are being carried out, by job."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_work.default
    def _new_work(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    @_decisions.default
    def _new_decisions(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    async def _round(self, tasks: TaskGroup) -> None:
        bell, now = self.tracker.changed.next, anyio.current_time()
        self._beat_where_due(tasks, now)
        self.context.bugs.worked(_LOOP)
        dues = [rhythm.due for rhythm in self._rhythms.values()]
        with anyio.move_on_after(min(dues) - now if dues else None):
            await bell.wait()
            await anyio.sleep(_GATHER_S)

    def hurry(self) -> None:
        """Beat for every leased job now: the endpoint has news of one."""
        for rhythm in self._rhythms.values():
            rhythm.due = anyio.current_time()
        self.tracker.changed.notify()

    def _beat_where_due(self, tasks: TaskGroup, now: float) -> None:
        leased = [
            (record, pause_s)
            for record in self.tracker.in_phase(*_LEASED)
            if (pause_s := self._pause_s(record)) is not None
        ]
        for job_id in self._rhythms.keys() - {record.job.id for record, _ in leased}:
            del self._rhythms[job_id]
            self.progress.forget(job_id)
        for record, pause_s in leased:
            job_id, rhythm = record.job.id, self._rhythm(record, now + pause_s)
            if _is_news(record, rhythm) or rhythm.due <= now:
                rhythm.due = now + pause_s
                if job_id not in self._work:
                    rhythm.sent = record.phase
                    self._work.start(
                        tasks,
                        job_id,
                        partial(self._beat, tasks, job_id),
                        on_end=partial(self._after_beat, job_id),
                    )

    def _rhythm(self, record: TrackedJob, due: float) -> _Rhythm:
        """Return the rhythm of a job's newest claim; the first beat of a new one is due at `due`."""
        token = record.job.claim_token
        rhythm = self._rhythms.get(record.job.id)
        if rhythm is None or rhythm.claim_token != token:
            rhythm = self._rhythms[record.job.id] = _Rhythm(token, due)
        return rhythm

    def _after_beat(self, job_id: str) -> None:
        rhythm, now = self._rhythms.get(job_id), self.tracker.get(job_id)
        if rhythm is None:
            self.progress.forget(job_id)
        elif now is not None and _is_news(now, rhythm):
            # The job has changed since this beat was sent, so the endpoint doesn't know its phase.
            self.tracker.changed.notify()

    async def _beat(self, tasks: TaskGroup, job_id: str) -> None:
        record = self.tracker.get(job_id)
        if record is None or record.phase not in _LEASED:
            # The job has changed since the beat was due; a job that is being handed back has none.
            return
        news = await self.progress.news(record)
        asked_at = self.context.clock.now()
        try:
            beat = await self.source.heartbeat(record, news)
        except JobClosed as error:
            await self._closed(record, asked_at, error)
        except RemoteError as error:
            self._log.warning(
                "heartbeat_failed", error=str(error), **job_context(record)
            )
        else:
            self.fence.note(record, asked_at, holds=True)
            self.logs.note(job_id, watching=beat.watching)
            if news is not None:
                self.progress.note_sent(record)
            decided = record.is_cancelled or record.phase is Phase.FINISHING
            if beat.cancel_requested and not decided:
                await self.tracker.cancel(job_id, "Cancelled before it started.")
            elif beat.resolution is not None:
                # A disk that doesn't take the decision yet holds up no further beats.
                act = partial(self._resolve, record, beat.resolution)
                item = f"decision about {job_id}"
                self._decisions.start(tasks, job_id, act, item=item)

    async def _resolve(self, record: TrackedJob, resolution: Resolution) -> None:
        """Carry out a person's decision at the endpoint, if the job is still parked as it was when they made it."""
        log = self._log.bind(
            decision=resolution.decision[:_LOGGED],
            by=resolution.by[:_LOGGED],
            **job_context(record),
        )
        if RESOLVE not in record.job.extensions:
            log.warning("decision_ignored", reason="the endpoint has not shown it")
        elif not resolution.is_known or resolution.parking != record.parking:
            log.warning("decision_ignored", reason="it is not about this parked job")
        else:
            try:
                verdict = resolution.verdict
                await self.tracker.resolve(record.job.id, verdict, of=record)
            except NotPossible as error:
                # Somebody on this machine was faster, or this answer comes a second time.
                log.info("decision_ignored", reason=error.reason)
            else:
                log.info("job_resolved_at_endpoint")

    async def _closed(
        self, record: TrackedJob, asked_at: datetime, error: JobClosed
    ) -> None:
        """Note that the endpoint has refused a beat, unless the job's finish has only overtaken it."""
        if self._has_finished_since(record):
            return
        self.fence.note(record, asked_at, holds=False)
        if record.phase is not Phase.FINISHING:
            # Else the finish may be on its way, and its answer tells.
            self._log.warning("lease_lost", error=str(error), **job_context(record))
        await self.tracker.answered(record, Event.LEASE_LOST)

    def _has_finished_since(self, record: TrackedJob) -> bool:
        """Return whether the refusal of a beat only means that the job's finish has overtaken it."""
        now = self.tracker.get(record.job.id)
        if now is None:
            return True
        return now.phase is Phase.FINISHING and record.phase is not Phase.FINISHING

    def _pause_s(self, record: TrackedJob) -> float | None:
        """Return the seconds between two beats of a job, or None if it needs none."""
        job = record.job
        if (
            job.lease_s is None
            or "heartbeat" not in job.extensions
            or self.fence.has_lost(record)
        ):
            return None
        pause_s = min(job.lease_s / _BEATS_IN_A_LEASE, _LONGEST_PAUSE_S)
        return max(pause_s, _SHORTEST_PAUSE_S)


def _is_news(record: TrackedJob, rhythm: _Rhythm) -> bool:
    """Return whether the endpoint is to be notified at once of a job's phase."""
    return record.phase not in _NOT_AT_ONCE and record.phase is not rhythm.sent
