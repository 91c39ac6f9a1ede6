"""Report: accept, release and finish, each job with its own retry; closed jobs move to history.

The accept is the fence: no process of a job starts before the source has confirmed it. A release is durable
before it is sent, and repeated until it is answered: another machine may have the job by then. A finish is
repeated forever, because a late result is still a result. A failure of one job's calls never delays another job.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, field, frozen

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import OWES, UNSTARTED, Debt, Event, Phase
from dispatchd.agent.domain.runnable_workflows import Machine, unfit
from dispatchd.agent.store import reports
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.liveness import SLACK_S, STEP_S
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import JobClosed, RemoteError
from dispatchd.protocol.report import Report

_LOOP: Final = "report"

_CALLS_AT_ONCE: Final = 8
"""Reports under way at the same time (count): enough to hide the round trip, too few to be a burden."""

_MOST_CALLS: Final = 2
"""Most calls of one report (count): a finish that is too large is sent once more without its texts."""


@frozen
class _Call:
    """One call that a record owes, and the events for its two answers."""

    name: str
    send: Callable[[TrackedJob], Awaitable[None]]
    done: Event
    refused: Event


@define(kw_only=True)
class ReportLoop:
    """Performs the calls that tracked jobs owe to the source."""

    source: Source
    tracker: Tracker
    fence: Fence
    runs: Runs
    machine: Machine
    """Abilities of this machine for runs."""
    context: Context
    _why_back: str = field(default="the machine was stopped", init=False)
    """Reason for handing jobs back, for the source."""
    _work: KeyedTasks[str] = field(init=False)
    _turns: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_CALLS_AT_ONCE), init=False
    )
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_work.default
    def _new_work(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Report until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    async def _round(self, tasks: TaskGroup) -> None:
        bell = self.tracker.changed.next
        self._take_up(tasks)
        self.context.bugs.worked(_LOOP)
        await bell.wait()

    async def hand_back(self, reason: str) -> None:
        """Have every job that has not started handed back to a source that takes it; the others stay.

        Returns when that is durable; the loop sends it to the source.
        """
        self._why_back = reason
        async with anyio.create_task_group() as tasks:
            for record in self.tracker.in_phase(*UNSTARTED):
                if record.may_go_back:
                    tasks.start_soon(self.tracker.give_back, record.job.id)

    def _take_up(self, tasks: TaskGroup) -> None:
        owing = {
            record.job.id
            for record in self.tracker.in_phase(
                Phase.PENDING_ACCEPT, Phase.RELEASING, Phase.FINISHING
            )
        }
        for job_id in owing | self.tracker.repeats:
            promise = _promise(job_id)
            self._work.start(
                tasks,
                job_id,
                partial(self._pay_all, job_id),
                on_end=partial(self._settled, promise),
                on_pause=partial(self._pause, promise),
            )
        waiting = len(self._work)
        self.context.activity.say(
            _LOOP, f"{waiting} reports under way" if waiting else "nothing to report"
        )

    def _pause(self, promise: str, seconds: float) -> None:
        self.context.liveness.expect(promise, seconds + SLACK_S)

    def _settled(self, promise: str) -> None:
        self.context.liveness.rest(promise)
        # The record may have changed since the task's last look at it.
        self.tracker.changed.notify()

    async def _pay_all(self, job_id: str) -> None:
        """Perform the calls that a job owes, until it owes none."""
        retry = Retry(self.context.random)
        while True:
            # A job that is already in history, on disk alone, only owes a repeat.
            repeat = job_id in self.tracker.repeats
            record = (
                await self.tracker.find(job_id) if repeat else self.tracker.get(job_id)
            )
            call = None if record is None else self._next_call(record)
            if record is None or call is None:
                self.tracker.repeats.discard(job_id)
                return
            try:
                await self._pay(record, call)
                retry.worked()
            except RemoteError as error:
                await self._back_off(record, error, retry)

    def _next_call(self, record: TrackedJob) -> _Call | None:
        repeat = record.job.id in self.tracker.repeats
        debt = OWES[record.phase]
        if debt is Debt.FINISH or (repeat and record.verdict is not None):
            return _Call(
                "finish",
                self._finish,
                Event.FINISH_ACKNOWLEDGED,
                Event.FINISH_REFUSED,
            )
        if debt is Debt.RELEASE:
            return _Call(
                "release", self._release, Event.RELEASED, Event.RELEASE_REFUSED
            )
        if debt is Debt.ACCEPT or (repeat and not record.was_given_back):
            return _Call(
                "accept",
                self._accept,
                Event.ACCEPT_CONFIRMED,
                Event.ACCEPT_REFUSED,
            )
        return None

    async def _accept(self, record: TrackedJob) -> None:
        await self.fence.accept(self.source, record)

    async def _release(self, record: TrackedJob) -> None:
        workflows = self.context.config.workflows
        why = unfit(workflows, self.machine).get(record.job.workflow)
        await self.source.release(record, why or self._why_back)

    async def _finish(self, record: TrackedJob) -> None:
        attempt, report = record.attempt, Report()
        if attempt is not None:
            run = self.runs.folder(record.run_id)
            # A look costs less than a thread, and most runs have no report.
            if reports.exist(run, attempt.number):
                report, problem = await to_thread.run_sync(
                    reports.read, run, attempt.number
                )
                if problem:
                    self._log.error("report_lost", lost=problem, **job_context(record))
                    record = record.with_remark(f"On its machine {problem} were lost.")
        await self.source.finish(record, report)

    async def _pay(self, record: TrackedJob, call: _Call) -> None:
        event = call.done
        promise = _promise(record.job.id)
        # A wait for a turn can't hang: each call that has a turn has its own deadline.
        self.context.liveness.rest(promise)
        try:
            async with self._turns:
                call_s = self.context.config.cloud.call_timeout_s
                self.context.liveness.expect(promise, _MOST_CALLS * (call_s + SLACK_S))
                await call.send(record)
        except JobClosed as error:
            self._log.warning(
                "job_closed_by_endpoint",
                call=call.name,
                error=str(error),
                **job_context(record),
            )
            event = call.refused
        self.context.activity.reported(self.context.clock.since_boot())
        self.context.liveness.expect(promise, STEP_S)
        await self.tracker.answered(record, event)

    async def _back_off(
        self, record: TrackedJob, error: RemoteError, retry: Retry
    ) -> None:
        delay_s = retry.failed(error.retry_after_s)
        self._log.warning(
            "report_failed",
            error=str(error),
            failures=retry.failures,
            retry_in_s=round(delay_s, 2),
            **job_context(record),
        )
        self._pause(_promise(record.job.id), delay_s)
        await anyio.sleep(delay_s)


def _promise(job_id: str) -> str:
    return f"{_LOOP} {job_id}"
