"""Watchdogs: the times at which an attempt has to end, none of which lives in memory.

Comes from `attempt.py`. The limits count from the beginning of the command; before it, in the queue of an engine, only
that queue's limit counts.
"""

from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Final

import anyio
from attrs import frozen

from dispatchd.agent.domain.executions.identities import Identity, ProcessIdentity
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.run_loop.permissions import pause_s, renew
from dispatchd.agent.store.evidence import last_activity_ns
from dispatchd.agent.tracking.ports import Engine
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.protocol.outcome import FailureCause

_AGAIN_S: Final = 60.0
"""Pause between two looks whether an attempt that has waited too long in a queue has begun (seconds)."""


@frozen
class Watchdogs:
    """Waits until attempts have to be ended."""

    _tracking: Tracking
    _engine: Engine

    async def until_unwanted(
        self, record: TrackedJob, attempt: Attempt, process: Identity
    ) -> FailureCause | None:
        """Wait until the run has to end. Return None if somebody ordered it, else the reason of a watchdog.

        Watchdogs are for what still runs: an end that nobody has seen, because the daemon was away or suspended, counts.
        """
        stop_requested = self._tracking.tracker.stop_event(record.job.id)
        begun_at = attempt.started_at
        if not isinstance(process, ProcessIdentity):
            begun = await self._until_begun(record, attempt, process, stop_requested)
            if begun is None:
                return None if stop_requested.is_set() else FailureCause.QUEUE_TIMEOUT
            begun_at = max(begun_at, begun)
        while True:
            due_at, cause = self._deadline(record, attempt, begun_at)
            left_s = (due_at - self._tracking.context.clock.now()).total_seconds()
            if left_s <= 0 and not self._engine.has_ended(process):
                return None if stop_requested.is_set() else cause
            if left_s <= 0:
                left_s = inf
            with anyio.move_on_after(left_s):
                await stop_requested.wait()
                return None

    async def _until_begun(
        self,
        record: TrackedJob,
        attempt: Attempt,
        process: Identity,
        stop_requested: anyio.Event,
    ) -> datetime | None:
        """Return the time at which a command began; None if it is to be stopped before, or has waited too long."""
        clock = self._tracking.context.clock
        folder = self._tracking.runs.folder(record.run_id).attempt(attempt.number)
        most_s = self._engine.queue_timeout_s(process)
        waited_s = (clock.now() - attempt.started_at).total_seconds()
        begun_at: datetime | None = None

        async def see_begin() -> None:
            nonlocal begun_at
            stamp = await self._engine.until_begun(process, folder)
            begun_at = clock.now() if stamp is None else clock.of_file(stamp)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(see_begin, name=f"beginning of {record.run_id}")
            tasks.start_soon(
                self._keep_permission,
                record.job.id,
                process,
                folder,
                name=f"permission of {record.run_id}",
            )
            left_s = max(0.0, most_s - waited_s) if most_s else inf
            while not stop_requested.is_set():
                with anyio.move_on_after(left_s):
                    await stop_requested.wait()
                if stop_requested.is_set() or not await self._engine.has_begun(
                    process, folder
                ):
                    break
                left_s = _AGAIN_S
            tasks.cancel_scope.cancel()
        return begun_at

    async def _keep_permission(
        self, job_id: str, process: Identity, folder: Path
    ) -> None:
        """Renew an attempt's permission to begin with each answer about its claim; take it back once that is lost."""
        fence = self._tracking.fence
        while (newest := self._tracking.tracker.get(job_id)) is not None:
            if not fence.has_lost(newest):
                await renew(self._tracking, self._engine, newest)
            elif await self._engine.withdraw(process, folder):
                return
            await anyio.sleep(pause_s(newest))

    def _deadline(
        self, record: TrackedJob, attempt: Attempt, begun_at: datetime
    ) -> tuple[datetime, FailureCause]:
        """Return the time and the cause of the next watchdog, for a run that stays silent until then."""
        most = attempt.deadline_at - attempt.started_at
        limit = (begun_at + most, FailureCause.MAX_DURATION)
        if not attempt.inactivity_s:
            return limit
        run = self._tracking.runs.folder(record.run_id)
        written_ns = last_activity_ns(
            [run.output_file(attempt.number), run.events_file(attempt.number)]
        )
        active_at = max(begun_at, self._tracking.context.clock.of_file(written_ns))
        silent_at = active_at + timedelta(seconds=attempt.inactivity_s)
        return min(limit, (silent_at, FailureCause.INACTIVITY_TIMEOUT))
