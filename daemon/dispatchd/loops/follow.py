"""Follow: one attempt, from its process to its end, whichever daemon started it.

Why a run is ended is durable before the signal is sent, so a daemon that dies between the two is followed
by one that knows the reason, and since when, and goes on. Where the disk refuses that record, the signal is sent all
the same, and the record is written as soon as it can be: until then a daemon that follows knows only that a signal has
ended the run, which is retry-safe, and whoever asked for the end has no answer yet. No deadline lives in memory: the time limit is
in the record, and silence is measured from what the run last wrote.
"""

from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, evolve, field

from dispatchd.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.domain.outcome import Exit, FailureCause, NeverStarted
from dispatchd.domain.phase import Event
from dispatchd.domain.workflow import Workflow
from dispatchd.loops.conclude import Concluder
from dispatchd.loops.leftovers import Leftovers
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Clock, Engine
from dispatchd.loops.tracker import Tracker
from dispatchd.process.holes import allocated, cut_middle
from dispatchd.store.evidence import last_activity_ns
from dispatchd.store.runs import Runs

_RECORD_S: Final = 10.0
"""How long the record of an order to stop is waited for (seconds): the disk may hang."""

_LOOK_S: Final = 1.0
"""How often the size of an output is looked at (seconds): growth of a file isn't announced without inotify(7)."""

_SEEN_S: Final = 5.0
"""How long the end of an attempt that was stopped may take to be seen (seconds); then it is given up."""


@define(kw_only=True)
class Follower:
    """Sees attempts through to their end, and ends them where that is due."""

    engine: Engine
    tracker: Tracker
    runs: Runs
    clock: Clock
    concluder: Concluder
    leftovers: Leftovers
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
        folder = self.runs.folder(record.run_id).attempt(attempt.number)
        end: Exit | NeverStarted = NeverStarted()
        readable = True
        try:
            if attempt.process is not None:
                # Before the wait: afterwards nobody can say any more what has to be kept out of a report.
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
            # What hangs in the kernel is given up: the job ends, and its slot is free.
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
            # A stop that is under way ends by itself now, and knows whether force was needed.
            if not stopping:
                tasks.cancel_scope.cancel()
        if isinstance(end, NeverStarted):
            return end
        usage = self.engine.usage(folder)
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
        return evolve(
            end,
            escalated=escalated,
            leftovers=cleared.ended,
            survivors=cleared.survivors,
            usage=usage,
        )

    def _grace_left_s(self, record: TrackedJob) -> float:
        """Return what is left of the kill grace (seconds): a restart of the daemon doesn't begin it anew."""
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
        """Return when the run has to end: None if somebody has ordered that, else why a watchdog wants it."""
        wanted_dead = self.tracker.stop_event(record.job.id)
        while True:
            due_at, cause = self._deadline(record, attempt)
            left_s = (due_at - self.clock.now()).total_seconds()
            if left_s <= 0:
                return None if wanted_dead.is_set() else cause
            with anyio.move_on_after(left_s):
                await wanted_dead.wait()
                return None

    async def _limit_output(
        self, record: TrackedJob, attempt: Attempt, limiting: anyio.CancelScope
    ) -> None:
        """Keep the output as small as it may be; where the file system gives no room back, end the run."""
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
        """Return when the order to stop is recorded, or the disk has refused it, or takes too long."""
        with anyio.move_on_after(_RECORD_S):
            await self.tracker.stop_event(record.job.id).wait()

    def _deadline(
        self, record: TrackedJob, attempt: Attempt
    ) -> tuple[datetime, FailureCause]:
        """Return when the next watchdog fires, and which one, if the run stays silent until then."""
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
