"""Run: a slot, then an attempt, which `agent/run_loop/attempt.py` starts and follows to its end.

The fence of this loop is the record: `running` with the attempt's number is durable before the shim is
forked, and the process identity before its gate opens. So each attempt starts at most once, and after a
crash the same code finds the same owed actions.
"""

from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, evolve, field

from dispatchd.agent.domain import cancel, runnable_workflows
from dispatchd.agent.domain.delivery import (
    foreign_repository,
    unfit_workflow,
    unknown_workflow,
)
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.runnable_workflows import Machine
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.run_loop.attempt import AttemptRunner
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.protocol.backoff import RETRY_CAP_S
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from dispatchd.protocol.times import duration

_SHORTEST_WAIT_S: Final = 0.05
"""Shortest wait for an attempt that is almost due (seconds)."""

_LONGEST_WAIT: Final = timedelta(seconds=RETRY_CAP_S)

_LOOP: Final = "run"

_BUG: Final = "Parked because of a bug in dispatchd; its log has the details."

_STARTABLE: Final = (Phase.ACCEPTED, Phase.RETRY_WAIT)
_WITH_WORKSPACE: Final = (
    Phase.NEEDS_ATTENTION,
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
)
"""Phases without an attempt under way in which the workspace of the attempt before is kept."""
_ALIVE: Final = (Phase.RUNNING, *_STARTABLE)


@define(kw_only=True)
class RunLoop:
    """Turns accepted jobs into verdicts, up to the number of slots at a time."""

    runner: AttemptRunner
    concluder: Concluder
    fence: Fence
    tracker: Tracker
    machine: Machine
    context: Context
    _stopping: bool = field(default=False, init=False)
    """True when the daemon stops."""
    _work: KeyedTasks[str] = field(init=False)
    _queues: KeyedTasks[str] = field(init=False)
    """Watches of engines' queues, by engine."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    _used: Counter[str] = field(factory=Counter, init=False)
    """Slots in use, by engine."""
    _parked: set[str] = field(factory=set, init=False)

    @_work.default
    def _new_work(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    @_queues.default
    def _new_queues(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled; the runs themselves stay alive then."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    def stop(self) -> None:
        """Start nothing new from now on; running attempts are followed on, and those that are being prepared reverted."""
        self._stopping = True
        self.runner.stop_starting()

    async def _round(self, tasks: TaskGroup) -> None:
        bell = self.tracker.changed.next
        self._take_up(tasks)
        self.context.bugs.worked(_LOOP)
        with anyio.move_on_after(self._next_due_s()):
            await bell.wait()

    def _take_up(self, tasks: TaskGroup) -> None:
        self._count_slots()
        if not self.tracker.in_phase(*Phase):
            self.context.clock.settle()
        # Jobs with a process come first: after a restart they hold their slots again.
        self._take_up_running(tasks)
        if not self._stopping:
            for record in self.tracker.in_phase(*_STARTABLE):
                if record.job.is_cancel or self._is_overdue(record):
                    self._spawn(tasks, record)
                elif self._has_slot(record) and self._is_due(record):
                    if self.fence.allows(record):
                        self._spawn(tasks, record)
                    else:
                        self.fence.ask(record)
        self.fence.forget_gone()
        self._clear_resolved(tasks)
        used = self._used.total()
        self.context.activity.say(_LOOP, f"{used} of {self._slots} slots in use")

    def _take_up_running(self, tasks: TaskGroup) -> None:
        """Follow every attempt but those that wait in the queue of an engine: one task watches all of these."""
        queued = self.runner.queued
        waiting = list[TrackedJob]()
        for record in self.tracker.in_phase(Phase.RUNNING):
            if record.job.id not in self._work:
                if queued.waits(record):
                    waiting.append(record)
                else:
                    self._spawn(tasks, record)
        queued.guard(waiting)
        for engine in {self._engine_of(record) for record in waiting}:
            self._queues.start(
                tasks,
                engine,
                partial(queued.watch, engine),
                item=f"queue of {engine}",
                on_end=self.tracker.changed.notify,
            )

    def _spawn(self, tasks: TaskGroup, record: TrackedJob) -> None:
        job_id = record.job.id
        if job_id not in self._work and record.phase is not Phase.RUNNING:
            self._used[self._engine_of(record)] += 1
        self._work.start(
            tasks,
            job_id,
            partial(self._fenced, job_id),
            on_end=self.tracker.changed.notify,
        )

    @property
    def _slots(self) -> int:
        return self.context.config.slots

    def _count_slots(self) -> None:
        """Count the slots in use on each engine. A job that has just ended still has its own."""
        running = self.tracker.in_phase(Phase.RUNNING)
        others = {*self._work} - {record.job.id for record in running}
        working = [*running, *map(self.tracker.get, others)]
        self._used = Counter(
            LOCAL if record is None else self._engine_of(record) for record in working
        )

    def _engine_of(self, record: TrackedJob) -> str:
        """Return the engine of a job's attempt, whatever is configured now; before it has one, that of its workflow."""
        attempt = record.attempt
        if record.phase is Phase.RUNNING and attempt is not None:
            if attempt.remote is not None:
                return attempt.remote.engine
            if attempt.process is not None:
                return LOCAL
        workflow = self.context.config.workflows.get(record.job.workflow)
        return LOCAL if workflow is None else workflow.engine

    def _has_slot(self, record: TrackedJob) -> bool:
        engine = self._engine_of(record)
        return self.context.config.slots_of(engine) > self._used[engine]

    def _is_due(self, record: TrackedJob) -> bool:
        if record.retry_at is None:
            return True
        now = self.context.clock.now()
        # A time beyond any wait was written before a reboot, by a clock that has been set since.
        return record.retry_at <= now or record.retry_at > now + _LONGEST_WAIT

    def _queue_deadline(self, record: TrackedJob) -> datetime | None:
        """Return the time at which a job has waited too long for its first attempt, or None if it may wait."""
        workflow = self.context.config.workflows.get(record.job.workflow)
        if workflow is None or not workflow.queue_timeout_s or not record.is_unstarted:
            return None
        return record.queued_at + timedelta(seconds=workflow.queue_timeout_s)

    def _is_overdue(self, record: TrackedJob) -> bool:
        deadline = self._queue_deadline(record)
        return deadline is not None and deadline <= self.context.clock.now()

    def _next_due_s(self) -> float | None:
        """Return the seconds until time alone makes something due, or None; a slot that becomes free rings."""
        waiting = [
            record
            for record in self.tracker.in_phase(*_STARTABLE)
            if record.job.id not in self._work
        ]
        times = [self._queue_deadline(record) for record in waiting]
        self._count_slots()
        startable = [record for record in waiting if self._has_slot(record)]
        times += [record.retry_at for record in startable]
        times += [self.fence.asks_at(record) for record in startable]
        queued = self.tracker.in_phase(Phase.RUNNING)
        times += [
            self.runner.queued.due_at(record)
            for record in queued
            if record.job.id not in self._work
        ]
        due = min((time for time in times if time is not None), default=None)
        if due is None:
            return None
        return max(_SHORTEST_WAIT_S, (due - self.context.clock.now()).total_seconds())

    def _clear_resolved(self, tasks: TaskGroup) -> None:
        """Remove the workspaces of jobs that left while they were parked, or waited for their next attempt after that."""
        parked = {
            record.job.id
            for record in self.tracker.in_phase(*_WITH_WORKSPACE)
            if record.attempts
        }
        for job_id in self._parked - parked:
            # A job that is tried again keeps its workspace.
            clear = partial(self.concluder.workspaces.clear, job_id)
            tasks.start_soon(
                partial(
                    self.context.bugs.complete, _LOOP, clear, item=f"clear {job_id}"
                ),
                name=f"clear {job_id}",
            )
        self._parked = parked

    async def _fenced(self, job_id: str) -> None:
        """Carry a job through its steps. Park it on a bug, so that one job can't end the daemon."""
        record = self.tracker.get(job_id)
        context = None if record is None else job_context(record)
        with self.context.bugs.contained(_LOOP, context) as containment:
            await self._carry(job_id)
        if containment.bug:
            await self.context.bugs.complete(
                _LOOP, partial(self._park, job_id), item=f"park {job_id}"
            )

    async def _park(self, job_id: str) -> None:
        record = self.tracker.get(job_id)
        if record is not None and record.phase in _ALIVE:
            await self.tracker.apply(
                job_id,
                Event.PARKED,
                change=lambda before: evolve(before, blocked=_BUG),
            )

    async def _carry(self, job_id: str) -> None:
        record = self.tracker.get(job_id)
        if record is None or record.phase not in _ALIVE:
            return
        if record.job.is_cancel:
            await self._cancel_targets(record)
            return
        workflow = self.context.config.workflows.get(record.job.workflow)
        if record.phase is not Phase.RUNNING:
            if self._stopping:
                # The job may be about to be handed back.
                return
            refused = self._refusal(record, workflow)
            if workflow is None or refused is not None:
                await self.tracker.apply(job_id, Event.REJECTED, verdict=refused)
                return
            if self._is_overdue(record):
                await self.tracker.apply(
                    job_id, Event.DECIDED, verdict=_queued_too_long(workflow)
                )
                return
            await self._start(record, workflow)
        record = self.tracker.get(job_id)
        if record is not None and record.phase is Phase.RUNNING:
            await self.runner.follow(record, workflow)

    def _refusal(self, record: TrackedJob, workflow: Workflow | None) -> Verdict | None:
        """Return the verdict of a job that can't be run here, or None if it can."""
        if workflow is None:
            return unknown_workflow(record.job.workflow)
        foreign = foreign_repository(record.job, workflow)
        if foreign is not None:
            return foreign
        if not record.job.from_fork or workflow.forks_without_isolation:
            return None
        weakness = self.runner.engine.weakness(workflow.isolation)
        return _not_isolated(workflow, weakness) if weakness else None

    def _unfit(self, record: TrackedJob, workflow: Workflow) -> str:
        """Return why this machine can't run a job as its owner wants it; empty if it can.

        It may have been able to when the job was accepted. An isolation that is missing when a job is tried again is
        a failed start, and may come back.
        """
        if self.runner.source is None:
            # A person runs a job again, and has read the warning.
            return ""
        if record.phase is Phase.RETRY_WAIT:
            return runnable_workflows.missing_limits(workflow, self.machine)
        reasons = runnable_workflows.unfit({workflow.name: workflow}, self.machine)
        return reasons.get(workflow.name, "")

    async def _turn_down(
        self, record: TrackedJob, workflow: Workflow, why: str
    ) -> None:
        """Leave a job to other machines, or reject it where its endpoint takes none back."""
        job_id = record.job.id
        if record.may_go_back:
            self._log.warning("job_given_back", reason=why, **job_context(record))
            await self.tracker.give_back(job_id)
            return
        verdict = unfit_workflow(workflow.name, why)
        await self.tracker.apply(job_id, Event.REJECTED, verdict=verdict)

    async def _cancel_targets(self, record: TrackedJob) -> None:
        targets = cancel.targets(record.job, self.tracker.in_phase(*Phase))
        if not targets and record.job.target_run_id:
            past = await self.tracker.find(record.job.target_run_id)
            targets = [past] if past is not None and not past.job.is_cancel else []
        reason = f"Cancelled by job {record.job.id} before it started."
        targets = [
            target
            if target.phase in cancel.ENDED
            else await self.tracker.cancel(target.job.id, reason)
            for target in targets
        ]
        await self.tracker.apply(
            record.job.id, Event.DECIDED, verdict=cancel.verdict(record.job, targets)
        )

    async def _start(self, record: TrackedJob, workflow: Workflow) -> None:
        if why := self._unfit(record, workflow):
            await self._turn_down(record, workflow, why)
            return
        now = self.context.clock.now()
        attempt = Attempt(
            number=len(record.attempts) + 1,
            started_at=now,
            deadline_at=now + timedelta(seconds=workflow.max_duration_s),
            contract=workflow.contract,
            inactivity_s=workflow.inactivity_s,
            kill_grace_s=workflow.kill_grace_s,
            output_max_bytes=workflow.output_max_bytes,
            terms=workflow.terms,
        )
        job_id = record.job.id
        record = await self.tracker.apply(
            job_id,
            Event.ATTEMPT_STARTING,
            change=lambda before: (
                before.with_attempt(attempt) if before.phase in _STARTABLE else before
            ),
        )
        if record.phase is Phase.RUNNING:
            # Otherwise it was cancelled, or its lease was lost, during these steps.
            await self.runner.start(record, attempt, workflow)


def _not_isolated(workflow: Workflow, weakness: str) -> Verdict:
    return Verdict(
        outcome=Outcome.REJECTED,
        summary=f"The job's code comes from a fork, and {weakness}. Workflow {workflow.name} takes no such jobs "
        "(forks_without_isolation).",
    )


def _queued_too_long(workflow: Workflow) -> Verdict:
    return Verdict(
        outcome=Outcome.FAILED,
        cause=FailureCause.QUEUE_TIMEOUT,
        summary=f"Nothing was run: it waited for more than {duration(workflow.queue_timeout_s)} for a slot on this machine.",
    )
