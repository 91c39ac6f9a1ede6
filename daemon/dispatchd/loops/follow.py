"""Follow: one attempt, from its process to its verdict, whichever daemon started it.

Why a run is ended is durable before the signal is sent, so a daemon that dies between the two is followed
by one that knows the reason and goes on.
"""

import random
from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog
from attrs import define, evolve, field

from dispatchd.domain.backoff import full_jitter_s
from dispatchd.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.domain.outcome import (
    RETRY_SAFE,
    Exit,
    FailureCause,
    NeverStarted,
    Verdict,
    judge,
)
from dispatchd.domain.phase import Event
from dispatchd.domain.workflow import DEFAULT_KILL_GRACE_S, Workflow
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Clock, Engine
from dispatchd.loops.tracker import Tracker, with_stop
from dispatchd.store.runs import Runs

_RETRY_BASE_S: Final = 5.0
"""Upper bound of the wait before the second attempt (seconds); it doubles from there."""

_RETRY_CAP_S: Final = 300.0
"""Upper bound of every wait before another attempt (seconds)."""


@define(kw_only=True)
class Follower:
    """Sees attempts through to their end and decides what it means."""

    engine: Engine
    tracker: Tracker
    runs: Runs
    clock: Clock
    random: random.Random
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
        end: Exit | NeverStarted = NeverStarted()
        if attempt.process is not None:
            end = await self._watch(record, attempt, attempt.process, workflow)
        await self._conclude(record.job.id, end, workflow)

    async def _watch(
        self,
        record: TrackedJob,
        attempt: Attempt,
        process: ProcessIdentity,
        workflow: Workflow | None,
    ) -> Exit | NeverStarted:
        folder = self.runs.folder(record.run_id).attempt(attempt.number)
        grace_s = (
            workflow.kill_grace_s if workflow is not None else DEFAULT_KILL_GRACE_S
        )
        stopping = escalated = False

        async def stop_when_wanted() -> None:
            nonlocal stopping, escalated
            await self._until_unwanted(record.job.id, attempt.deadline_at)
            stopping = True
            escalated = await self.engine.stop(process, grace_s)
            if escalated:
                self._log.warning(
                    "run_killed",
                    reason="SIGTERM was ignored",
                    grace_s=grace_s,
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
        return evolve(
            end,
            escalated=escalated,
            leftovers=await self.engine.clear(process, folder),
        )

    async def _until_unwanted(self, job_id: str, deadline_at: datetime) -> None:
        """Return when the run has to end: somebody wants it dead, or its time is over."""
        left_s = (deadline_at - self.clock.now()).total_seconds()
        wanted_dead = self.tracker.stop_event(job_id)
        with anyio.move_on_after(max(0.0, left_s)):
            await wanted_dead.wait()
            return
        await self.tracker.apply(
            job_id,
            Event.STOP_ORDERED,
            change=lambda before: with_stop(before, FailureCause.MAX_DURATION),
        )

    async def _conclude(
        self, job_id: str, end: Exit | NeverStarted, workflow: Workflow | None
    ) -> None:
        record = self.tracker.get(job_id)
        if record is None or record.attempt is None:
            return
        attempt = record.attempt
        if isinstance(end, NeverStarted):
            if attempt.stop is not FailureCause.CANCELLED:
                number = attempt.number
                await self.tracker.apply(
                    job_id,
                    Event.ATTEMPT_NEVER_STARTED,
                    change=lambda before: before.without_attempt(number),
                )
                return
            end = Exit(code=None)
        duration_s = (self.clock.now() - attempt.started_at).total_seconds()
        verdict = judge(end, stop=attempt.stop, duration_s=duration_s)
        retries = workflow.max_retries if workflow is not None else 0
        if verdict.cause in RETRY_SAFE and len(record.attempts) <= retries:
            await self._retry_later(record, verdict)
        else:
            await self.decide(record, verdict)

    async def _retry_later(self, record: TrackedJob, verdict: Verdict) -> None:
        draw = self.random.random()
        delay_s = full_jitter_s(
            len(record.attempts), draw, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S
        )
        retry_at = self.clock.now() + timedelta(seconds=delay_s)
        await self.tracker.apply(
            record.job.id,
            Event.ATTEMPT_FAILED,
            change=lambda before: evolve(
                _with_end(before, verdict, self.clock.now()), retry_at=retry_at
            ),
        )

    async def decide(self, record: TrackedJob, verdict: Verdict) -> TrackedJob:
        """End a job's run with a verdict."""
        return await self.tracker.apply(
            record.job.id,
            Event.DECIDED,
            verdict=verdict,
            change=lambda before: _with_end(before, verdict, self.clock.now()),
        )


def _with_end(record: TrackedJob, verdict: Verdict, now: datetime) -> TrackedJob:
    if record.attempt is None:
        return record
    return record.with_attempt(
        evolve(record.attempt, ended_at=now, cause=verdict.cause)
    )
