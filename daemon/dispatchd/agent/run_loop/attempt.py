"""Attempt: its workspace, its secrets and its process, then its end, whichever daemon started it.

The fence of a start is the engine's: the process identity is durable before the command can run. Until then a failure,
or the end of the daemon, means that nothing was run.

The reason for ending a run is durable before the signal is sent. If a daemon dies between the two, the next one knows
the reason and the time, and continues. If the disk refuses that record, the signal is sent all the same, and the
record is written as soon as possible. Until then another daemon would know only that a signal ended the run, which is
retry-safe, and whoever requested the end has no answer yet. No deadline lives in memory: the time limit is in the
record, and silence is measured from the last output of the run.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, Protocol

import anyio
import structlog
from anyio import to_thread
from attrs import define, evolve, field

from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.exit_table import Ending
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.trace import traceparent
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.run_loop.prepare import Prepared, prepare
from dispatchd.agent.run_loop.queued import Queued
from dispatchd.agent.run_loop.token import given_secrets
from dispatchd.agent.run_loop.unkillable import Survivors
from dispatchd.agent.run_loop.watchdogs import Watchdogs
from dispatchd.agent.store.evidence import note_masks
from dispatchd.agent.store.runs import RunFolder
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Engine, Source
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.agent.tracking.tracker import Decision
from dispatchd.errors import (
    FolderDamaged,
    NotConfirmed,
    RunError,
    SecretUnavailable,
    StoreUnavailable,
    WorkspaceFailed,
)
from dispatchd.linux.file_holes import allocated, cut_middle
from dispatchd.protocol.outcome import Exit, FailureCause, NeverStarted, Unreachable

_RECORD_S: Final = 10.0
"""Longest wait for the record of an order to stop (seconds): the disk may hang."""

_LOOK_S: Final = 1.0
"""Time between two checks of an output's size (seconds): without inotify(7) nothing announces the growth of a file."""

_CUTS: Final = 60
"""Looks at which a full disk may keep an output from being cut, before its run is ended (count)."""

_SEEN_S: Final = 5.0
"""Longest time until the end of a stopped attempt is seen (seconds); then the attempt is given up."""


class Guard(Protocol):
    """Keeps the files of an attempt usable for the length of a block, of one that lives or that waits in a queue."""

    def __call__(
        self, run: RunFolder, number: int, /, *, is_queued: bool = False
    ) -> AbstractContextManager[None]:
        """Return the block."""
        ...


def unguarded(*_: object, **__: object) -> AbstractContextManager[None]:
    """Keep nothing, where nobody takes it away."""
    return nullcontext()


@define(kw_only=True)
class AttemptRunner:
    """Starts attempts, follows them to their end, and ends them where that is due."""

    tracking: Tracking
    engine: Engine
    concluder: Concluder
    survivors: Survivors
    source: Source | None = None
    """Source of tokens for attempts; None for a replay, of which no endpoint knows."""
    guard: Guard = unguarded
    watchdogs: Watchdogs = field(init=False)
    queued: Queued = field(init=False)
    _stopping: anyio.Event = field(factory=anyio.Event, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @watchdogs.default
    def _new_watchdogs(self) -> Watchdogs:
        return Watchdogs(self.tracking, self.engine)

    @queued.default
    def _new_queued(self) -> Queued:
        return Queued(self.tracking, self.engine, self._guard_queued)

    def _guard_queued(
        self, record: TrackedJob, number: int
    ) -> AbstractContextManager[None]:
        run = self.tracking.runs.folder(record.run_id)
        return self.guard(run, number, is_queued=True)

    def stop_starting(self) -> None:
        """Give up the starts that are under way; whoever follows such an attempt reverts it."""
        self._stopping.set()

    async def start(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow
    ) -> None:
        """Start a running job's newest attempt; a failure to start is concluded at once.

        If the job is lost before the command has begun, the start is reverted. If the endpoint doesn't
        answer, the attempt has a process that never begins, and whoever follows it reverts it.
        """
        run = self.tracking.runs.folder(record.run_id)
        try:
            await self._launch(record, attempt, workflow)
        except RunError as error:
            await self.concluder.fail_to_start(record, workflow, _ending(error), error)
            self.engine.forget(run.attempt(attempt.number))
            return
        except NotConfirmed as error:
            self._log.warning(
                "start_given_up", reason=error.reason, **job_context(record)
            )
        now = self.tracking.tracker.get(record.job.id)
        if now is None or now.phase is not Phase.RUNNING:
            self.engine.forget(run.attempt(attempt.number))
            await self.concluder.workspaces.clear(record.job.id)

    async def _prepare(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow
    ) -> Prepared:
        base_env = dict(self.engine.inherited)
        if self.tracking.context.config.telemetry.otlp_url:
            # W3C Trace Context.
            base_env["TRACEPARENT"] = traceparent(record, attempt.number)
        prepared = await self.tracking.tracker.disk.until_stored(
            lambda: prepare(
                record,
                attempt,
                workflow,
                self.tracking.runs,
                base_env,
                self.concluder.known,
            )
        )
        self._log_left_out(record, prepared)
        return prepared

    async def _launch(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow
    ) -> None:
        """Prepare and start it, or give up when the attempt is to be ended.

        A token and a checkout can take minutes, and room on a full disk any time.

        Raises:
            RunError: It can't be started: a leaf.
            NotConfirmed: It must not be started.
        """
        job_id = record.job.id
        failed: RunError | NotConfirmed | None = None

        async def record_process(process: Identity) -> None:
            newest = await self.tracking.tracker.decide(
                job_id,
                lambda before: Decision(
                    Event.ATTEMPT_STARTED, _with_process(before, process)
                ),
            )
            await self.tracking.fence.confirm(self.source, newest)
            folder = self.tracking.runs.folder(record.run_id).attempt(attempt.number)
            left_s = self.tracking.fence.left_s(newest)
            await self.engine.permit(process, folder, left_s)

        async with anyio.create_task_group() as tasks:

            async def give_up_when(unwanted: anyio.Event) -> None:
                await unwanted.wait()
                tasks.cancel_scope.cancel()

            for unwanted in (self.tracking.tracker.stop_event(job_id), self._stopping):
                tasks.start_soon(
                    give_up_when, unwanted, name=f"start watchdog {job_id}"
                )
            try:
                prepared = await self._prepare(record, attempt, workflow)
                given = await given_secrets(self.source, record, workflow)
                launch = evolve(prepared.launch, given=given)
                await self.engine.start(launch, record_process)
            except (RunError, NotConfirmed) as error:
                # Raised outside of the task group, which would wrap it into an exception group.
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def follow(self, record: TrackedJob, workflow: Workflow | None) -> None:
        """Wait for the end of a running job's newest attempt, ending it where that is due, and conclude.

        `workflow` is None if it has gone from the configuration since the attempt began. One that simply waits in the
        queue of an engine is left to `queued`.
        """
        attempt = record.attempt
        if attempt is None or self.queued.waits(record):
            return
        with self.guard(self.tracking.runs.folder(record.run_id), attempt.number):
            await self._follow(record, attempt, workflow)

    async def _follow(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow | None
    ) -> None:
        folder = self.tracking.runs.folder(record.run_id).attempt(attempt.number)
        end: Exit | NeverStarted = NeverStarted()
        readable = True
        try:
            identity = attempt.identity
            if identity is not None:
                # Before the wait: afterwards the secrets that must not get into a report may no longer be known.
                readable = await self.engine.recall(identity, folder)
                if readable:
                    redactor = self.concluder.known.redactor
                    self.tracking.logs.begin(record, attempt, redactor)
                end = await self._watch(record, attempt, identity)
            await self.concluder.conclude(
                record.job.id, end, workflow, secrets_known=readable
            )
        finally:
            self.engine.forget(folder)

    async def _watch(
        self, record: TrackedJob, attempt: Attempt, process: Identity
    ) -> Exit | NeverStarted:
        folder = self.tracking.runs.folder(record.run_id).attempt(attempt.number)
        stopping = escalated = False
        end: Exit | NeverStarted = Exit(code=None)
        observing, limiting = anyio.CancelScope(), anyio.CancelScope()
        ended = anyio.Event()

        async def stop_when_wanted() -> None:
            nonlocal stopping, escalated
            cause = await self.watchdogs.until_unwanted(record, attempt, process)
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
                self._limit_output,
                record,
                attempt,
                process,
                limiting,
                name="output limit",
            )
            with observing:
                end = await self._observe(record, process, folder)
            ended.set()
            limiting.cancel()
            # A stop that is under way now ends by itself, and knows whether force was needed.
            if not stopping:
                tasks.cancel_scope.cancel()
        if isinstance(end, NeverStarted):
            return end
        usage = self.engine.usage(folder)
        cleared = await self.survivors.clear(record, process, folder)
        return evolve(
            end,
            escalated=escalated,
            leftovers=cleared.ended,
            survivors=cleared.survivors,
            usage=usage,
        )

    def _grace_left_s(self, record: TrackedJob) -> float:
        """Return the rest of the kill grace (seconds): a restart of the daemon doesn't restart it."""
        now = (self.tracking.tracker.get(record.job.id) or record).attempt
        if now is None:
            return 0.0
        if now.stop_at is None:
            # The order to stop could not be recorded yet.
            return now.kill_grace_s
        passed_s = (self.tracking.context.clock.now() - now.stop_at).total_seconds()
        return min(max(0.0, now.kill_grace_s - passed_s), now.kill_grace_s)

    async def _observe(
        self, record: TrackedJob, process: Identity, folder: Path
    ) -> Exit | NeverStarted:
        """Wait for the end of an attempt; a controller that doesn't answer says nothing about it."""
        is_silent = False
        while isinstance(
            end := await self.engine.observe(process, folder), Unreachable
        ):
            if not is_silent:
                self._log.warning(
                    "engine_unreachable", reason=end.reason, **job_context(record)
                )
            is_silent = True
        return end

    async def _limit_output(
        self,
        record: TrackedJob,
        attempt: Attempt,
        process: Identity,
        limiting: anyio.CancelScope,
    ) -> None:
        """Limit the size of the output. End the run where the file system can't free space within a file."""
        most = attempt.output_max_bytes
        run = self.tracking.runs.folder(record.run_id)
        path = run.output_file(attempt.number)
        with limiting:
            # One that waits in a queue writes nothing.
            await self.engine.until_begun(process, run.attempt(attempt.number))
            tries_left = _CUTS
            while most:
                if allocated(path) > most:
                    try:
                        await to_thread.run_sync(cut_middle, path, most, note_masks)
                        tries_left = _CUTS
                    except (OSError, StoreUnavailable) as error:
                        tries_left -= 1
                        if isinstance(error, OSError) or not tries_left:
                            self._log.error(
                                "output_not_limited",
                                error=str(error),
                                **job_context(record),
                            )
                            await self._order_stop(record, FailureCause.SIGNAL)
                            return
                await anyio.sleep(_LOOK_S)

    async def _order_stop(self, record: TrackedJob, cause: FailureCause) -> None:
        await self.tracking.tracker.apply(
            record.job.id,
            Event.STOP_ORDERED,
            change=lambda before: before.ending(
                cause, self.tracking.context.clock.now()
            ),
        )

    async def _until_ordered(self, record: TrackedJob) -> None:
        """Wait until the order to stop is recorded, or the disk has refused it, or `_RECORD_S` has passed."""
        with anyio.move_on_after(_RECORD_S):
            await self.tracking.tracker.stop_event(record.job.id).wait()

    def _log_left_out(self, record: TrackedJob, prepared: Prepared) -> None:
        for parameter in prepared.left_out:
            self._log.info(
                "parameter_left_out",
                name=parameter.name,
                reason=parameter.reason,
                **job_context(record),
            )
        if prepared.withheld:
            self._log.info(
                "secrets_withheld",
                names=list(prepared.withheld),
                reason="the job's code comes from a fork",
                **job_context(record),
            )


def _ending(error: RunError) -> Ending:
    match error:
        case WorkspaceFailed() | FolderDamaged():
            return Ending.WORKSPACE
        case SecretUnavailable():
            return Ending.SECRET
        case _:
            return Ending.SPAWN


def _with_process(record: TrackedJob, process: Identity) -> TrackedJob:
    if record.attempt is None:
        return record
    return record.with_attempt(record.attempt.identified(process))
