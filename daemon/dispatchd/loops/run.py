"""Run: a slot, then an attempt; `loops/follow.py` sees it through to its verdict.

The fence of this loop is the record: `running` with the attempt's number is durable before the shim is
forked, and the process identity before its gate opens. So each attempt starts at most once, and after a
crash the same code finds the same debts.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, evolve, field

from dispatchd.domain import cancel
from dispatchd.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.domain.outcome import (
    FailureCause,
    Outcome,
    Verdict,
)
from dispatchd.domain.phase import Event, Phase
from dispatchd.domain.workflow import Workflow
from dispatchd.errors import SpawnFailed
from dispatchd.loops.board import Board
from dispatchd.loops.follow import Follower
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Clock, Engine
from dispatchd.loops.prepare import prepare
from dispatchd.loops.pull import unknown_workflow
from dispatchd.loops.tracker import Tracker
from dispatchd.store.runs import Runs

_SHORTEST_WAIT_S: Final = 0.05
"""Shortest wait for an attempt that is almost due (seconds)."""

_STARTABLE: Final = (Phase.ACCEPTED, Phase.RETRY_WAIT)
_ALIVE: Final = (Phase.RUNNING, *_STARTABLE)


@define(kw_only=True)
class RunLoop:
    """Turns accepted jobs into verdicts, as many at a time as there are slots."""

    engine: Engine
    follower: Follower
    tracker: Tracker
    runs: Runs
    workflows: Mapping[str, Workflow]
    slots: int
    base_env: Mapping[str, str]
    board: Board
    clock: Clock
    stopping: bool = field(default=False, init=False)
    """Set when the daemon stops: what runs is followed on, nothing new starts."""
    _busy: set[str] = field(factory=set, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled; the runs themselves are left alive then."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                bell = self.tracker.bell
                self._take_up(tasks)
                with anyio.move_on_after(self._next_retry_s()):
                    await bell.wait()

    def _take_up(self, tasks: TaskGroup) -> None:
        # What has a process comes first: after a restart it holds its slot again.
        for record in self.tracker.in_phase(Phase.RUNNING):
            self._spawn(tasks, record)
        if not self.stopping:
            for record in self.tracker.in_phase(*_STARTABLE):
                if record.job.is_cancel or (
                    self._free_slots() > 0 and self._is_due(record)
                ):
                    self._spawn(tasks, record)
        self.board.say("run", f"{len(self._busy)} of {self.slots} slots in use")

    def _spawn(self, tasks: TaskGroup, record: TrackedJob) -> None:
        if record.job.id not in self._busy:
            self._busy.add(record.job.id)
            tasks.start_soon(self._fence, record.job.id, name=f"run {record.run_id}")

    def _free_slots(self) -> int:
        return self.slots - len(self._busy)

    def _is_due(self, record: TrackedJob) -> bool:
        return record.retry_at is None or record.retry_at <= self.clock.now()

    def _next_retry_s(self) -> float | None:
        """Return the seconds until the next attempt is due, or None; a slot that gets free rings by itself."""
        waiting = self.tracker.in_phase(Phase.RETRY_WAIT)
        times = [record.retry_at for record in waiting if record.retry_at is not None]
        if not times or self._free_slots() <= 0:
            return None
        return max(_SHORTEST_WAIT_S, (min(times) - self.clock.now()).total_seconds())

    async def _fence(self, job_id: str) -> None:
        """Contain a bug: the one place that catches everything, so that one job can't take the daemon down."""
        try:
            await self._carry(job_id)
        except Exception:  # noqa: BLE001  # the bug fence of this program
            record = self.tracker.get(job_id)
            context = {} if record is None else job_context(record)
            self._log.exception("bug_contained", **context)
            if record is not None and record.phase in _ALIVE:
                await self.tracker.apply(job_id, Event.PARKED)
        finally:
            self._busy.discard(job_id)
            self.tracker.ring()

    async def _carry(self, job_id: str) -> None:
        record = self.tracker.get(job_id)
        if record is None or record.phase not in _ALIVE:
            return
        if record.job.is_cancel:
            await self._cancel_targets(record)
            return
        workflow = self.workflows.get(record.job.workflow)
        if record.phase is not Phase.RUNNING:
            if self.stopping:
                # It may be about to be handed back.
                return
            if workflow is None:
                await self.tracker.apply(
                    job_id,
                    Event.REJECTED,
                    verdict=unknown_workflow(record.job.workflow),
                )
                return
            record = await self._start(record, workflow)
        if record.phase is Phase.RUNNING:
            await self.follower.follow(record, workflow)

    async def _cancel_targets(self, record: TrackedJob) -> None:
        found = cancel.targets(record.job, self.tracker.in_phase(*Phase))
        if not found and record.job.target_run_id:
            past = await self.tracker.find(record.job.target_run_id)
            found = [] if past is None else [past]
        for target in found:
            await self.tracker.cancel(
                target.job.id, f"Cancelled by job {record.job.id} before it started."
            )
        await self.tracker.apply(
            record.job.id, Event.DECIDED, verdict=cancel.verdict(record.job, found)
        )

    async def _start(self, record: TrackedJob, workflow: Workflow) -> TrackedJob:
        now = self.clock.now()
        attempt = Attempt(
            number=len(record.attempts) + 1,
            started_at=now,
            deadline_at=now + timedelta(seconds=workflow.max_duration_s),
        )
        job_id = record.job.id
        record = await self.tracker.apply(
            job_id,
            Event.ATTEMPT_STARTING,
            change=lambda before: (
                before.with_attempt(attempt) if before.phase in _STARTABLE else before
            ),
        )
        if record.phase is not Phase.RUNNING:
            # It was cancelled, or its lease was lost, while it was taken up.
            return record
        try:
            prepared = await self.tracker.until_stored(
                lambda: prepare(record, workflow, self.runs, self.base_env)
            )
            for each in prepared.left_out:
                self._log.info(
                    "parameter_left_out",
                    name=each.name,
                    reason=each.reason,
                    **job_context(record),
                )
            await self.engine.start(
                prepared.launch, lambda process: self._record_process(job_id, process)
            )
        except SpawnFailed as error:
            verdict = Verdict(
                outcome=Outcome.FAILED,
                cause=FailureCause.SPAWN,
                summary=f"Nothing was run: {error}.",
            )
            return await self.follower.decide(record, verdict)
        return self.tracker.get(job_id) or record

    async def _record_process(self, job_id: str, process: ProcessIdentity) -> None:
        def change(before: TrackedJob) -> TrackedJob:
            return (
                before
                if before.attempt is None
                else before.with_attempt(evolve(before.attempt, process=process))
            )

        await self.tracker.apply(job_id, Event.ATTEMPT_STARTED, change=change)
