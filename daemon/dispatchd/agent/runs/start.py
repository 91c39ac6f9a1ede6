"""Start: give an attempt its workspace, its secrets and its process, unless its end is requested first.

The fence is the engine's: the process identity is durable before the command can run. Until then a failure,
or the end of the daemon, means that nothing was run.
"""

from collections.abc import Mapping
from http import HTTPStatus

import anyio
import structlog
from attrs import define, evolve, field

from dispatchd.agent.domain.exit_table import Ending
from dispatchd.agent.domain.job import Attempt, ProcessIdentity, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.trace import traceparent
from dispatchd.agent.domain.workflow import GH_TOKEN, Workflow
from dispatchd.agent.runs.conclude import Concluder
from dispatchd.agent.runs.prepare import Prepared, prepare
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.context import Context
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Engine, Source
from dispatchd.agent.tracking.tracker import Decision, Tracker
from dispatchd.errors import (
    FolderDamaged,
    Forbidden,
    JobClosed,
    NotConfirmed,
    RemoteError,
    Revoked,
    RunError,
    SecretUnavailable,
    WorkspaceFailed,
)


@define(kw_only=True)
class Starter:
    """Starts attempts."""

    engine: Engine
    tracker: Tracker
    fence: Fence
    runs: Runs
    concluder: Concluder
    context: Context
    source: Source | None = None
    """Source of tokens for attempts; None for a replay, of which no endpoint knows."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def start(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow
    ) -> None:
        """Start a running job's newest attempt; a failure to start is concluded at once.

        If the job is lost before the command has begun, the start is reverted. If the endpoint doesn't
        answer, the attempt has a process that never begins, and whoever follows it reverts it.
        """
        base_env = dict(self.engine.inherited)
        run = self.runs.folder(record.run_id)
        if self.context.config.telemetry.otlp_url:
            # W3C Trace Context.
            base_env["TRACEPARENT"] = traceparent(record, attempt.number)
        try:
            prepared = await self.tracker.disk.until_stored(
                lambda: prepare(
                    record, attempt, workflow, self.runs, base_env, self.concluder.known
                )
            )
            self._tell_left_out(record, prepared)
            await self._launch(record, prepared, workflow)
        except RunError as error:
            await self.concluder.fail_to_start(record, workflow, _ending(error), error)
            self.engine.forget(run.attempt(attempt.number))
            return
        except NotConfirmed as error:
            self._log.warning(
                "start_given_up", reason=error.reason, **job_context(record)
            )
        now = self.tracker.get(record.job.id)
        if now is None or now.phase is not Phase.RUNNING:
            self.engine.forget(run.attempt(attempt.number))
            await self.concluder.workspaces.clear(record.job.id)

    async def _launch(
        self, record: TrackedJob, prepared: Prepared, workflow: Workflow
    ) -> None:
        """Start it, or give up when the attempt is to be ended: a token and a checkout can take minutes.

        Raises:
            RunError: It can't be started: a leaf.
            NotConfirmed: It must not be started.
        """
        job_id = record.job.id
        failed: RunError | NotConfirmed | None = None

        async def record_process(process: ProcessIdentity) -> None:
            newest = await self.tracker.decide(
                job_id,
                lambda before: Decision(
                    Event.ATTEMPT_STARTED, _with_process(before, process)
                ),
            )
            await self._pass_fence(newest)

        async with anyio.create_task_group() as tasks:

            async def give_up_when_unwanted() -> None:
                await self.tracker.stop_event(job_id).wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up_when_unwanted, name=f"start watchdog {job_id}")
            try:
                given = await self._given(record, workflow)
                launch = evolve(prepared.launch, given=given)
                await self.engine.start(launch, record_process)
            except (RunError, NotConfirmed) as error:
                # Raised outside of the task group, which would wrap it into an exception group.
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _pass_fence(self, record: TrackedJob) -> None:
        """Return if the command of a job may begin. If that isn't known, ask the endpoint once.

        Raises:
            NotConfirmed: It must not begin.
        """
        if record.phase is not Phase.RUNNING:
            raise NotConfirmed(reason=f"the job is {record.phase}")
        if self.source is None or self.fence.allows(record):
            return
        try:
            wanted = await self.fence.accept(self.source, record)
        except RemoteError as error:
            raise NotConfirmed(reason=str(error)) from error
        if not wanted:
            raise NotConfirmed(reason="somebody has cancelled it")
        # The answer counts from the time of the call: it may have taken longer than the lease, or a delivery came.
        newest = self.tracker.get(record.job.id)
        is_wanted = (
            newest is not None
            and newest.phase is Phase.RUNNING
            and not newest.stop_requested
        )
        if newest is None or not is_wanted or not self.fence.allows(newest):
            raise NotConfirmed(reason="the endpoint's answer doesn't hold any more")

    async def _given(self, record: TrackedJob, workflow: Workflow) -> Mapping[str, str]:
        """Return the secrets that the endpoint gives to an attempt: a token, by variable, if its workflow asks for one.

        Raises:
            SecretUnavailable: The endpoint gives none.
        """
        if not workflow.github_token or record.job.from_fork:
            return {}
        if self.source is None:
            reason = "nobody is asked for a token in a replay"
            raise SecretUnavailable(name=GH_TOKEN, reason=reason, refused=True)
        if "token" not in record.job.extensions:
            reason = "the endpoint gives no tokens: its job has no extension `token`"
            raise SecretUnavailable(name=GH_TOKEN, reason=reason, refused=True)
        try:
            token = await self.source.token(record, workflow.github_token)
        except RemoteError as error:
            reason = f"the endpoint gave none: {error.reason}"
            raise SecretUnavailable(
                name=GH_TOKEN,
                reason=reason,
                refused=_is_refusal(error),
                retry_after_s=error.retry_after_s,
            ) from error
        return {GH_TOKEN: token}

    def _tell_left_out(self, record: TrackedJob, prepared: Prepared) -> None:
        for each in prepared.left_out:
            self._log.info(
                "parameter_left_out",
                name=each.name,
                reason=each.reason,
                **job_context(record),
            )
        if prepared.withheld:
            self._log.info(
                "secrets_withheld",
                names=list(prepared.withheld),
                reason="the job's code comes from a fork",
                **job_context(record),
            )


def _is_refusal(error: RemoteError) -> bool:
    """Return whether the refusal is the endpoint's own, so that it would answer the same again."""
    return (
        isinstance(error, JobClosed | Forbidden | Revoked)
        or error.status == HTTPStatus.UNPROCESSABLE_ENTITY
    )


def _ending(error: RunError) -> Ending:
    match error:
        case WorkspaceFailed() | FolderDamaged():
            return Ending.WORKSPACE
        case SecretUnavailable():
            return Ending.SECRET
        case _:
            return Ending.SPAWN


def _with_process(record: TrackedJob, process: ProcessIdentity) -> TrackedJob:
    if record.attempt is None:
        return record
    started = record.with_attempt(evolve(record.attempt, process=process))
    return evolve(started, start_failures=0)
