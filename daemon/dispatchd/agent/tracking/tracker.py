"""The only writer of phases: lock the job, advance, put, notify the loops.

A record is durable before the act that it describes. So nothing here returns until the disk has it: a
full or failing disk makes every loop wait here (`agent/tracking/disk_retry.py`). Only a record that a restart would
lead to again waits for the next put of its job (`TrackedJob.is_owed_again`).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

import anyio
import structlog
from anyio import to_thread
from attrs import define, evolve, field, frozen

from dispatchd.agent.domain.job import TrackedJob, cancelled
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Clock
from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import NotPossible, RecordUnreadable
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Verdict

_PARKABLE: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
)


@frozen
class Decision:
    """Decision about a job: the event, the record before it with all other changes, and the verdict."""

    event: Event
    record: TrackedJob
    verdict: Verdict | None = None


@define
class Tracker:
    """Single way of all changes to tracked jobs."""

    _store: JobStore
    _clock: Clock
    disk: Disk
    _watchers: Sequence[Callable[[TrackedJob], None]] = ()
    """Called with every new record, in order, once it is as durable as it has to be; they neither wait nor fail."""
    repeats: set[str] = field(factory=set, init=False)
    """Jobs that were handed out again, and whose accept or finish is to be repeated."""
    changed: Notifier = field(factory=Notifier)
    """Notifies every loop of a change."""
    _unrecorded_stops: set[str] = field(factory=set, init=False)
    """Jobs whose order to stop the disk refuses."""
    _stops: WeakValueDictionary[str, anyio.Event] = field(
        factory=WeakValueDictionary, init=False
    )
    _locks: WeakValueDictionary[str, anyio.Lock] = field(
        factory=WeakValueDictionary, init=False
    )
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    def stop_event(self, job_id: str) -> anyio.Event:
        """Return the event of a running attempt's end: by a decision, or because its job is lost before it began."""
        stop_requested = self.is_to_stop(job_id)
        event = self._stops.get(job_id)
        if event is None or (event.is_set() and not stop_requested):
            # An event that is set is that of an earlier attempt.
            event = self._stops[job_id] = anyio.Event()
        if stop_requested:
            event.set()
        return event

    def is_to_stop(self, job_id: str) -> bool:
        """Return whether a running attempt is to be ended, recorded or not. A change of that rings the bell."""
        record = self._store.get(job_id)
        recorded = record is not None and record.stop_requested
        return recorded or job_id in self._unrecorded_stops

    def get(self, job_id: str) -> TrackedJob | None:
        """Return a tracked job, or None once it is in history."""
        return self._store.get(job_id)

    def in_phase(self, *phases: Phase) -> list[TrackedJob]:
        """Return the tracked jobs in some phases, oldest first."""
        return self._store.in_phase(*phases)

    def count(self, *phases: Phase) -> int:
        """Return the number of tracked jobs in some phases."""
        return self._store.count(*phases)

    async def find(self, job_id: str) -> TrackedJob | None:
        """Return a tracked or past job, or None for one that is not known here."""
        known = self._store.get(job_id)
        if known is None and self._store.has_past(job_id):
            return await to_thread.run_sync(self.past, job_id)
        return known

    def past(self, job_id: str) -> TrackedJob | None:
        """Return a job in history, or None for one that isn't there. Reads the disk."""
        try:
            return self._store.past(job_id)
        except RecordUnreadable as error:
            # Without its record the job counts as new; its accept is still the fence.
            self._log.error(
                "history_record_unreadable", error=str(error), job_id=job_id
            )
            return None

    def is_quarantined(self, job_id: str) -> bool:
        """Return whether a record of a job was moved away because it can't be read. A look at the disk."""
        return self._store.is_quarantined(job_id)

    @asynccontextmanager
    async def holding(self, job_id: str) -> AsyncIterator[TrackedJob | None]:
        """Yield the newest record of a job, which can't change in the block; None if it is not known here.

        Only the holder of a job may remove its folder. For short work: every change of the job has to wait.
        """
        async with self._lock(job_id):
            yield await self.find(job_id)

    async def receive(
        self,
        job: Job,
        *,
        store_texts: Callable[[], None],
        rejection: Verdict | None = None,
    ) -> TrackedJob:
        """Track a job that was handed out, or record that a known one was handed out again.

        Args:
            job: The job.
            store_texts: Makes the texts of a new job durable, before its record; may be repeated.
            rejection: Verdict of a new job that is finished at once and never accepted; None for any other.
        """
        now = self._clock.now()
        async with self._lock(job.id):
            known = await self.find(job.id)
            if known is not None and not known.was_given_back:
                self.repeats.add(job.id)
                return await self._keep(
                    known.with_claim(job).advance(Event.REDELIVERED, now)
                )
            record = TrackedJob.received(job, now=now)
            if known is not None:
                record = known.come_again(job, now=now)
            if rejection is not None:
                record = record.advance(Event.REJECTED, now, verdict=rejection)
            return await self._keep(record, store_texts)

    async def apply(
        self,
        job_id: str,
        event: Event,
        *,
        verdict: Verdict | None = None,
        change: Callable[[TrackedJob], TrackedJob] | None = None,
    ) -> TrackedJob:
        """Advance a known job by an event, and return its record once that is durable.

        Args:
            job_id: The job.
            event: The event of the job.
            verdict: The end of its run, for the events that lead to `finishing`.
            change: Makes the other changes of the record after the event, given the record before it.

        Raises:
            KeyError: The job is not known here.
            InvalidTransition: The table has no such row; nothing has changed.
        """
        async with self._lock(job_id):
            known = await self.find(job_id)
            if known is None:
                raise KeyError(job_id)
            before = known if change is None else change(known)
            return await self._advance(before, event, verdict)

    async def decide(
        self, job_id: str, decision: Callable[[TrackedJob], Decision]
    ) -> TrackedJob:
        """Decide about a running job from its newest record, and return the new one.

        `decision` is called under the job's lock, so nothing can change between reading and deciding. A
        job that no longer runs is left as it is.

        Raises:
            KeyError: The job is not known here.
        """
        async with self._lock(job_id):
            record = await self.find(job_id)
            if record is None:
                raise KeyError(job_id)
            if record.phase is not Phase.RUNNING:
                return record
            made = decision(record)
            return await self._advance(made.record, made.event, made.verdict)

    async def park(self, job_id: str, reason: str) -> TrackedJob:
        """Park a job for a person: at once if nothing of it runs, else when its attempt has been ended.

        Raises:
            NotPossible: It is already parked, or has ended.
        """
        async with self._lock(job_id):
            record = self._standing(job_id, "block", _PARKABLE)
            event = (
                Event.STOP_ORDERED if record.phase is Phase.RUNNING else Event.PARKED
            )
            if record.stop_requested:
                raise NotPossible(
                    do="block", job_id=job_id, reason="it is being ended already"
                )
            now = self._clock.now()
            parked = evolve(record, blocked=reason)
            return await self._advance(
                parked.ending(FailureCause.NEEDS_INPUT, now), event
            )

    async def resolve(
        self, job_id: str, verdict: Verdict | None, *, of: TrackedJob | None = None
    ) -> TrackedJob:
        """End a parked job with a verdict, or start another attempt of it (None).

        Args:
            job_id: The job.
            verdict: The verdict.
            of: The record that was decided about; None for the present one.

        Raises:
            NotPossible: It isn't parked, or no longer as `of` was: under the same claim, for the same reason.
        """
        async with self._lock(job_id):
            record = self._standing(job_id, "resolve", (Phase.NEEDS_ATTENTION,))
            if of is not None and not record.is_parked_like(of):
                reason = "it has been parked or handed out again since"
                raise NotPossible(do="resolve", job_id=job_id, reason=reason)
            event = Event.RESOLVED_RETRY if verdict is None else Event.RESOLVED
            return await self._advance(record, event, verdict)

    async def answered(self, record: TrackedJob, event: Event) -> None:
        """Advance a job by the endpoint's answer about a record of it.

        If the claim was dispatched again meanwhile, an answer to the old one says nothing about the new one,
        for which a call of its own is made.
        """
        async with self._lock(record.job.id):
            known = await self.find(record.job.id)
            if known is not None and known.job.claim_token == record.job.claim_token:
                self.repeats.discard(record.job.id)
                after = known.after_answer(event, self._clock.now())
                await self._replace(known, after)

    async def cancel(self, job_id: str, reason: str) -> TrackedJob:
        """Request the end of a job: at once if nothing of it runs, else the run loop ends the attempt."""
        return await self.apply(
            job_id,
            Event.CANCEL_REQUESTED,
            verdict=cancelled(reason),
            change=lambda record: record.ending(
                FailureCause.CANCELLED, self._clock.now()
            ),
        )

    async def give_back(self, job_id: str) -> None:
        """Request the hand-back of an unstarted job: from now on it can't start here. A job that has started stays."""
        async with self._lock(job_id):
            record = self._store.get(job_id)
            if record is not None and record.is_unstarted:
                await self._advance(record, Event.RELEASE_WANTED)

    async def _advance(
        self, before: TrackedJob, event: Event, verdict: Verdict | None = None
    ) -> TrackedJob:
        record = before.advance(event, self._clock.now(), verdict=verdict)
        return await self._replace(before, record)

    async def _replace(self, before: TrackedJob, record: TrackedJob) -> TrackedJob:
        # A job that was already in history owes nothing.
        return record if before.phase is Phase.HISTORY else await self._keep(record)

    async def _keep(
        self, record: TrackedJob, before: Callable[[], None] | None = None
    ) -> TrackedJob:
        def write() -> None:
            if before is not None:
                before()
            self._store.put(record)

        def refused() -> None:
            # A run that has filled the disk must end before there is space to record the reason.
            if record.stop_requested:
                self._unrecorded_stops.add(record.job.id)
                self._ring_stop(record)
                self.changed.notify()

        if record.is_owed_again:
            self._store.keep(record)
        else:
            try:
                await self.disk.until_stored(write, refused)
            finally:
                self._unrecorded_stops.discard(record.job.id)
        step = record.steps[-1].event if record.steps else "received"
        self._log.info("job_" + step, phase=record.phase, **job_context(record))
        for watch in self._watchers:
            watch(record)
        if record.stop_requested or record.phase is not Phase.RUNNING:
            self._ring_stop(record)
        self.changed.notify()
        return record

    def _ring_stop(self, record: TrackedJob) -> None:
        stop = self._stops.get(record.job.id)
        if stop is not None:
            stop.set()

    def _standing(self, job_id: str, do: str, phases: tuple[Phase, ...]) -> TrackedJob:
        """Return a tracked job that is in one of some phases.

        Raises:
            NotPossible: It is in another phase.
        """
        record = self._store.get(job_id)
        if record is None:
            raise NotPossible(
                do=do, job_id=job_id, reason="it has ended, or was never here"
            )
        if record.phase not in phases:
            raise NotPossible(do=do, job_id=job_id, reason=f"it is {record.phase}")
        return record

    def _lock(self, job_id: str) -> anyio.Lock:
        return self._locks.setdefault(job_id, anyio.Lock())
