"""Heartbeat: extend leases and hear of cancel requests, for jobs whose endpoint offers it."""

from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, field

from dispatchd.domain.job import TrackedJob
from dispatchd.domain.phase import Event, Phase
from dispatchd.errors import JobClosed, RemoteError
from dispatchd.loops.fence import Fence
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Clock, Source
from dispatchd.loops.progress import ProgressFeed
from dispatchd.loops.tracker import Tracker

_BEATS_IN_A_LEASE: Final = 6
"""How many beats fit into a lease (count), so that five can be missed before it is lost."""

_LONGEST_PAUSE_S: Final = 30.0
"""Longest time between two beats (seconds), because a cancel request waits for the next one."""

_GATHER_S: Final = 0.1
"""How long changes are gathered before the leases are looked at again (seconds)."""

_LEASED: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.NEEDS_ATTENTION,
)


@define(kw_only=True)
class HeartbeatLoop:
    """Beats for every leased job, each in its own rhythm."""

    source: Source
    tracker: Tracker
    fence: Fence
    clock: Clock
    progress: ProgressFeed
    _due: dict[str, float] = field(factory=dict, init=False)
    """Leased jobs, and when the next beat of each is due, on the clock of the event loop."""
    _busy: set[str] = field(factory=set, init=False)
    _lost: set[str] = field(factory=set, init=False)
    """Claim tokens whose lease is gone: a run goes on without it, and asking again would change nothing."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                bell, now = self.tracker.bell, anyio.current_time()
                self._beat_where_due(tasks, now)
                pause_s = min(self._due.values()) - now if self._due else None
                with anyio.move_on_after(pause_s):
                    await bell.wait()
                    await anyio.sleep(_GATHER_S)

    def _beat_where_due(self, tasks: TaskGroup, now: float) -> None:
        pauses = {
            record.job.id: self._pause_s(record)
            for record in self.tracker.in_phase(*_LEASED)
        }
        leased = {
            job_id: pause for job_id, pause in pauses.items() if pause is not None
        }
        self._due = {
            job_id: self._due.get(job_id, now + pause)
            for job_id, pause in leased.items()
        }
        for job_id, due in self._due.items():
            if due <= now:
                self._due[job_id] = now + leased[job_id]
                if job_id not in self._busy:
                    self._busy.add(job_id)
                    tasks.start_soon(self._beat, job_id, name=f"heartbeat {job_id}")

    async def _beat(self, job_id: str) -> None:
        try:
            record = self.tracker.get(job_id)
            if record is not None:
                await self._ask(record)
        finally:
            self._busy.discard(job_id)

    async def _ask(self, record: TrackedJob) -> None:
        job_id = record.job.id
        news = await self.progress.news(record)
        asked_at = self.clock.now()
        try:
            beat = await self.source.heartbeat(record, news)
        except JobClosed as error:
            self._lost.add(record.job.claim_token)
            self.fence.note(record, asked_at, holds=False)
            self._log.warning("lease_lost", error=str(error), **job_context(record))
            await self.tracker.answered(record, Event.LEASE_LOST)
        except RemoteError as error:
            self._log.warning(
                "heartbeat_failed", error=str(error), **job_context(record)
            )
        else:
            self.fence.note(record, asked_at, holds=True)
            if news is not None:
                self.progress.told(record)
            if beat.cancel_requested and not record.is_wanted_dead:
                await self.tracker.cancel(job_id, "Cancelled before it started.")

    def _pause_s(self, record: TrackedJob) -> float | None:
        """Return the seconds between two beats of a job, or None if it needs none."""
        job = record.job
        if (
            job.lease_s is None
            or "heartbeat" not in job.extensions
            or job.claim_token in self._lost
        ):
            return None
        return min(job.lease_s / _BEATS_IN_A_LEASE, _LONGEST_PAUSE_S)
