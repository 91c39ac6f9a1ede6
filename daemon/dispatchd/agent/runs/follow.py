"""Follow: one attempt, from its process to its end, whichever daemon started it.

The reason for ending a run is durable before the signal is sent. If a daemon dies between the two, the next one knows
the reason and the time, and continues. If the disk refuses that record, the signal is sent all the same, and the
record is written as soon as possible. Until then another daemon would know only that a signal ended the run, which is
retry-safe, and whoever requested the end has no answer yet. No deadline lives in memory: the time limit is in the
record, and silence is measured from the last output of the run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, evolve, field

from dispatchd.agent.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.runs.conclude import Concluder
from dispatchd.agent.runs.leftovers import Leftovers
from dispatchd.agent.store.evidence import last_activity_ns
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Clock, Engine
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.process.holes import allocated, cut_middle
from dispatchd.protocol.outcome import Cleared, Exit, FailureCause, NeverStarted

_RECORD_S: Final = 10.0
"""Longest wait for the record of an order to stop (seconds): the disk may hang."""

_LOOK_S: Final = 1.0
"""Time between two checks of an output's size (seconds): without inotify(7) nothing announces the growth of a file."""

_SEEN_S: Final = 5.0
"""Longest time until the end of a stopped attempt is seen (seconds); then the attempt is given up."""


Guard = Callable[[RunFolder, int], AbstractContextManager[None]]
"""Keeps the files of a live attempt usable for the length of a block."""


def unguarded(_run: RunFolder, _number: int) -> AbstractContextManager[None]:
    """Keep nothing, where nobody takes it away."""
    return nullcontext()


@define(kw_only=True)
class Follower:
    """Follows attempts to their end, and ends them where that is due."""

    engine: Engine
    tracker: Tracker
    runs: Runs
    clock: Clock
    concluder: Concluder
    leftovers: Leftovers
    guard: Guard = unguarded
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def follow(self, record: TrackedJob, workflow: Workflow | None) -> None:
        """Wait for the end of a running job's newest attempt, ending it where that is due, and conclude.

        `workflow` is None if it has gone from the configuration since the attempt began.
        """
        attempt = record.attempt
        if attempt is None:
            return
        with self.guard(self.runs.folder(record.run_id), attempt.number):
            await self._follow(record, attempt, workflow)

    async def _follow(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow | None
    ) -> None:
        folder = self.runs.folder(record.run_id).attempt(attempt.number)
        end: Exit | NeverStarted = NeverStarted()
        readable = True
        try:
            if attempt.process is not None:
                # Before the wait: afterwards the secrets that must not get into a report may no longer be known.
                readable = await self.engine.recall(attempt.process, folder)
                end = await self._watch(record, attempt, attempt.process)
            await self.concluder.conclude(
                record.job.id, end, workflow, secrets_known=readable
            )
        finally:
            self.engine.forget(folder)

    async def _watch(
        self, record: TrackedJob, attempt: Attempt, process: ProcessIdentity
    ) -> Exit | NeverStarted:
        folder = self.runs.folder(record.run_id).attempt(attempt.number)
        stopping = escalated = False
        end: Exit | NeverStarted = Exit(code=None)
        observing, limiting = anyio.CancelScope(), anyio.CancelScope()
        ended = anyio.Event()

        async def stop_when_wanted() -> None:
            nonlocal stopping, escalated
            cause = await self._until_unwanted(record, attempt)
            stopping = True
            if cause is not None:
                tasks.start_soon(self._order_stop, record, cause)
                await self._until_ordered(record)
            escalated = await self.engine.stop(process, self._grace_left_s(record))
            if escalated:
                self._log.warning(
                    "run_killed",
                    reason="SIGTERM was ignored",
                    grace_s=attempt.kill_grace_s,
                    **job_context(record),
                )
            with anyio.move_on_after(_SEEN_S):
                await ended.wait()
            # A process that hangs in the kernel is given up: the job ends, and its slot is free.
            observing.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_when_wanted, name=f"watchdog {record.run_id}")
            tasks.start_soon(
                self._limit_output, record, attempt, limiting, name="output limit"
            )
            with observing:
                end = await self.engine.observe(process, folder)
            ended.set()
            limiting.cancel()
            # A stop that is under way now ends by itself, and knows whether force was needed.
            if not stopping:
                tasks.cancel_scope.cancel()
        if isinstance(end, NeverStarted):
            return end
        usage = self.engine.usage(folder)
        cleared = await self._clear(record, process, folder)
        return evolve(
            end,
            escalated=escalated,
            leftovers=cleared.ended,
            survivors=cleared.survivors,
            usage=usage,
        )

    async def _clear(
        self, record: TrackedJob, process: ProcessIdentity, folder: Path
    ) -> Cleared:
        """End what a command has left."""
        cleared = await self.engine.clear(process, folder)
        if cleared.ended:
            self._log.warning(
                "leftovers_ended", count=cleared.ended, **job_context(record)
            )
        if cleared.survivors:
            self._log.error(
                "leftovers_given_up",
                processes=[str(each) for each in cleared.survivors],
                **job_context(record),
            )
            self.leftovers.add(record.run_id, process, folder, cleared.survivors)
        return cleared

    def _grace_left_s(self, record: TrackedJob) -> float:
        """Return the rest of the kill grace (seconds): a restart of the daemon doesn't restart it."""
        now = (self.tracker.get(record.job.id) or record).attempt
        if now is None:
            return 0.0
        if now.stop_at is None:
            # The order to stop could not be recorded yet.
            return now.kill_grace_s
        passed_s = (self.clock.now() - now.stop_at).total_seconds()
        return min(max(0.0, now.kill_grace_s - passed_s), now.kill_grace_s)

    async def _until_unwanted(
        self, record: TrackedJob, attempt: Attempt
    ) -> FailureCause | None:
        """Wait until the run has to end. Return None if somebody ordered it, else the reason of a watchdog."""
        stop_requested = self.tracker.stop_event(record.job.id)
        while True:
            due_at, cause = self._deadline(record, attempt)
            left_s = (due_at - self.clock.now()).total_seconds()
            if left_s <= 0:
                return None if stop_requested.is_set() else cause
            with anyio.move_on_after(left_s):
                await stop_requested.wait()
                return None

    async def _limit_output(
        self, record: TrackedJob, attempt: Attempt, limiting: anyio.CancelScope
    ) -> None:
        """Limit the size of the output. End the run where the file system can't free space within a file."""
        most = attempt.output_max_bytes
        path = self.runs.folder(record.run_id).output_file(attempt.number)
        with limiting:
            while most:
                if allocated(path) > most:
                    try:
                        await to_thread.run_sync(cut_middle, path, most)
                    except OSError as error:
                        self._log.error(
                            "output_not_limited",
                            error=error.strerror,
                            **job_context(record),
                        )
                        await self._order_stop(record, FailureCause.SIGNAL)
                        return
                await anyio.sleep(_LOOK_S)

    async def _order_stop(self, record: TrackedJob, cause: FailureCause) -> None:
        await self.tracker.apply(
            record.job.id,
            Event.STOP_ORDERED,
            change=lambda before: before.ending(cause, self.clock.now()),
        )

    async def _until_ordered(self, record: TrackedJob) -> None:
        """Wait until the order to stop is recorded, or the disk has refused it, or `_RECORD_S` has passed."""
        with anyio.move_on_after(_RECORD_S):
            await self.tracker.stop_event(record.job.id).wait()

    def _deadline(
        self, record: TrackedJob, attempt: Attempt
    ) -> tuple[datetime, FailureCause]:
        """Return the time and the cause of the next watchdog, for a run that stays silent until then."""
        limit = (attempt.deadline_at, FailureCause.MAX_DURATION)
        if not attempt.inactivity_s:
            return limit
        run = self.runs.folder(record.run_id)
        written_ns = last_activity_ns(
            [run.output_file(attempt.number), run.events_file(attempt.number)]
        )
        active_at = max(attempt.started_at, self.clock.of_file(written_ns))
        silent_at = active_at + timedelta(seconds=attempt.inactivity_s)
        return min(limit, (silent_at, FailureCause.INACTIVITY_TIMEOUT))
