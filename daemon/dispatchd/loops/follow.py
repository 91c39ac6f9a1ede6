"""Follow: one attempt, from its process to its end, whichever daemon started it.

Why a run is ended is durable before the signal is sent, so a daemon that dies between the two is followed
by one that knows the reason, and since when, and goes on. No deadline lives in memory: the time limit is
in the record, and silence is measured from what the run last wrote.
"""

from datetime import datetime, timedelta

import anyio
import structlog
from attrs import define, evolve, field

from dispatchd.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.domain.outcome import Exit, FailureCause, NeverStarted
from dispatchd.domain.phase import Event
from dispatchd.domain.workflow import Workflow
from dispatchd.loops.conclude import Concluder
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Clock, Engine
from dispatchd.loops.tracker import Tracker
from dispatchd.store.evidence import last_activity_ns
from dispatchd.store.runs import Runs


@define(kw_only=True)
class Follower:
    """Sees attempts through to their end, and ends them where that is due."""

    engine: Engine
    tracker: Tracker
    runs: Runs
    clock: Clock
    concluder: Concluder
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

        async def stop_when_wanted() -> None:
            nonlocal stopping, escalated
            await self._until_unwanted(record, attempt)
            stopping = True
            escalated = await self.engine.stop(process, self._grace_left_s(record))
            if escalated:
                self._log.warning(
                    "run_killed",
                    reason="SIGTERM was ignored",
                    grace_s=attempt.kill_grace_s,
                    **job_context(record),
                )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_when_wanted, name=f"watchdog {record.run_id}")
            end = await self.engine.observe(process, folder)
            # A stop that is under way ends by itself now, and knows whether force was needed.
            if not stopping:
                tasks.cancel_scope.cancel()
        if isinstance(end, NeverStarted):
            return end
        usage = self.engine.usage(folder)
        leftovers = await self.engine.clear(process, folder)
        if leftovers:
            self._log.warning("leftovers_ended", count=leftovers, **job_context(record))
        return evolve(end, escalated=escalated, leftovers=leftovers, usage=usage)

    def _grace_left_s(self, record: TrackedJob) -> float:
        """Return what is left of the kill grace (seconds): a restart of the daemon doesn't begin it anew."""
        now = self.tracker.get(record.job.id) or record
        if now.attempt is None or now.attempt.stop_at is None:
            return 0.0
        passed_s = (self.clock.now() - now.attempt.stop_at).total_seconds()
        return min(
            max(0.0, now.attempt.kill_grace_s - passed_s), now.attempt.kill_grace_s
        )

    async def _until_unwanted(self, record: TrackedJob, attempt: Attempt) -> None:
        """Return when the run has to end: somebody wants it dead, or a watchdog does."""
        wanted_dead = self.tracker.stop_event(record.job.id)
        while True:
            due_at, cause = self._deadline(record, attempt)
            left_s = (due_at - self.clock.now()).total_seconds()
            if left_s <= 0:
                break
            with anyio.move_on_after(left_s):
                await wanted_dead.wait()
                return
        if not wanted_dead.is_set():
            await self.tracker.apply(
                record.job.id,
                Event.STOP_ORDERED,
                change=lambda before: before.ending(cause, self.clock.now()),
            )

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
