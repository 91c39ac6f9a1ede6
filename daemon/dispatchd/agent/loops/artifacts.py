"""Artifacts: send the copies of what attempts have left to endpoints that keep artifacts.

Nothing waits for an artifact: the job is finished by its own loop, and its files may follow for a day. What the
endpoint has is its own to say, in each answer; from there a file continues after a cut, or a restart of either side.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, field

from dispatchd.agent.domain.delivery import Stored
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.artifacts.snapshots import Snapshot, Snapshots
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import JobClosed, RemoteError, TooLarge
from dispatchd.protocol.uploads.artifacts import Artifact, ArtifactChunk

T = TypeVar("T")

_LOOP: Final = "artifacts"

_CHUNK: Final = 512 * 1024
"""Part of a file in one call (bytes). Base64 adds a third, and many proxies refuse more than 1 MiB."""

_CALLS_AT_ONCE: Final = 2
"""Calls under way at the same time (count): more important calls come through beside them."""

_LONGEST_PAUSE_S: Final = 60.0
"""Longest pause between two tries of a call (seconds)."""

_AFTERWARDS: Final = timedelta(days=1)
"""Time after the end of a job for which its artifacts are still sent, and kept for that."""

_MOST_REPAIRS: Final = 3
"""Most times that a file is sent again because the endpoint has other bytes (count)."""

_MOST_NAMED: Final = 5
"""Most refused files that are named in the log (count)."""

_DECIDED: Final = (Phase.NEEDS_ATTENTION, Phase.FINISHING)
"""Phases of tracked jobs whose newest attempt stays the newest one for now."""


@define(kw_only=True)
class ArtifactLoop:
    """Sends artifacts, those of each job by itself."""

    source: Source
    tracking: Tracking
    snapshots: Snapshots
    _over: dict[str, Snapshot | None] = field(factory=dict, init=False)
    """Snapshots that need no further calls, and couldn't be removed, by their names; None for an unreadable one."""
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

    @property
    def context(self) -> Context:
        """Context of all loops."""
        return self.tracking.context

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Send until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    async def _round(self, tasks: TaskGroup) -> None:
        bell = self.tracking.tracker.changed.next
        for name in self.snapshots.names():
            if name not in self._work:
                snapshot = await to_thread.run_sync(self.snapshots.read, name)
                if self._is_due(name, snapshot):
                    self._work.start(
                        tasks,
                        name,
                        partial(self._send_all, name),
                        on_end=self.tracking.tracker.changed.notify,
                    )
        self.context.bugs.worked(_LOOP)
        await bell.wait()

    def _is_due(self, name: str, snapshot: Snapshot | None) -> bool:
        """Return whether a snapshot is to be sent or removed now."""
        if name in self._over and self._over[name] == snapshot:
            return False
        if snapshot is None:
            return True
        tracked = self.tracking.tracker.get(snapshot.job_id)
        return tracked is None or tracked.phase in _DECIDED

    async def _send_all(self, name: str) -> None:
        """Send what a snapshot has, and remove it."""
        snapshot = await to_thread.run_sync(self.snapshots.read, name)
        if snapshot is not None:
            record = await self.tracking.tracker.find(snapshot.job_id)
            if record is not None and self._may_send(record):
                try:
                    await self._send(record, snapshot)
                except FileNotFoundError:
                    # That of a newer attempt has replaced it.
                    return
                except OSError as error:
                    self._say_not_sent(record, str(error))
                except (JobClosed, TooLarge) as error:
                    self._log.warning(
                        "artifacts_refused", error=str(error), **job_context(record)
                    )
        await to_thread.run_sync(self.snapshots.remove, name, snapshot)
        if name in self.snapshots.names():
            self._over[name] = snapshot
            if snapshot is None:
                self._log.warning("artifacts_unreadable", name=name)
        else:
            self._over.pop(name, None)

    def _may_send(self, record: TrackedJob) -> bool:
        workflow = self.context.config.workflows.get(record.job.workflow)
        return workflow is None or workflow.report_artifacts

    async def _send(self, record: TrackedJob, snapshot: Snapshot) -> None:
        """Announce the files of a snapshot, and send those that the endpoint wants.

        Raises:
            JobClosed: The endpoint takes no artifacts of this job.
            TooLarge: Something on the way takes no calls of this size.
            OSError: A copy can't be read.
        """
        listed = snapshot.listed
        answers = await self._call(
            record, lambda: self.source.artifacts(record, listed)
        )
        if answers is None:
            return
        pairs = [*zip(listed.files, answers, strict=True)]
        self._say_refused(record, pairs)
        sent = 0
        for file, stored in pairs:
            if not stored.refused and not stored.whole:
                if not await self._send_file(record, snapshot, file, stored):
                    return
                sent += 1
        self._log.info(
            "artifacts_sent",
            files=sent,
            known=sum(stored.whole for stored in answers),
            **job_context(record),
        )

    async def _send_file(
        self, record: TrackedJob, snapshot: Snapshot, file: Artifact, stored: Stored
    ) -> bool:
        """Send a file from where the endpoint has it. Return False to give up.

        Raises:
            JobClosed: The endpoint takes no artifacts of this job.
            TooLarge: Something on the way takes no calls of this size.
            OSError: The copy can't be read.
        """
        repairs = Retry(self.context.random, cap_s=_LONGEST_PAUSE_S)
        # An endpoint can't have more than there is.
        offset = min(stored.offset, file.size)
        while True:
            data = await to_thread.run_sync(snapshot.read, file, offset, _CHUNK)
            chunk = ArtifactChunk(file=file.sha256, offset=offset, data=data)
            answer = await self._call(
                record, partial(self.source.artifact, record, chunk)
            )
            if answer is None:
                return False
            if answer.whole:
                return True
            if not offset < answer.offset < file.size:
                # It has other bytes, or never gets any further.
                pause_s = repairs.failed()
                if repairs.failures > _MOST_REPAIRS:
                    why = f"the endpoint doesn't get the bytes of {file.path}"
                    self._say_not_sent(record, why)
                    return True
                await anyio.sleep(pause_s)
            offset = min(answer.offset, file.size)

    async def _call(
        self, record: TrackedJob, call: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Make a call until it is answered; return the answer, or None to give up.

        Raises:
            JobClosed: The endpoint takes no artifacts of this job.
            TooLarge: Something on the way takes no calls of this size.
        """
        retry = Retry(self.context.random, cap_s=_LONGEST_PAUSE_S)
        while True:
            try:
                async with self._turns:
                    return await call()
            except (JobClosed, TooLarge):
                raise
            except RemoteError as error:
                pause_s = retry.failed(error.retry_after_s)
                newest = await self.tracking.tracker.find(record.job.id)
                if newest is None or self._is_late(newest):
                    self._say_not_sent(record, str(error))
                    return None
                self._log.info(
                    "artifacts_delayed",
                    error=str(error),
                    retry_in_s=round(pause_s, 2),
                    **job_context(record),
                )
                await anyio.sleep(pause_s)

    def _is_late(self, record: TrackedJob) -> bool:
        passed = self.context.clock.now() - record.changed_at
        return record.phase is Phase.HISTORY and passed > _AFTERWARDS

    def _say_not_sent(self, record: TrackedJob, error: str) -> None:
        self._log.warning("artifacts_not_sent", error=error, **job_context(record))

    def _say_refused(
        self, record: TrackedJob, pairs: Sequence[tuple[Artifact, Stored]]
    ) -> None:
        refused = [(file.path, why.refused) for file, why in pairs if why.refused]
        if refused:
            self._log.warning(
                "artifacts_refused",
                files=len(refused),
                reasons=[f"{path}: {why}" for path, why in refused[:_MOST_NAMED]],
                **job_context(record),
            )
