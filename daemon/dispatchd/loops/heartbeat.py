"""Heartbeat: extend leases and hear of cancel requests, for jobs whose endpoint offers it."""

from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.domain.job import TrackedJob
from dispatchd.domain.phase import Event, Phase
from dispatchd.errors import JobClosed, RemoteError
from dispatchd.loops.log_context import job_context
from dispatchd.loops.ports import Source
from dispatchd.loops.tracker import Tracker

_BEATS_IN_A_LEASE: Final = 6
"""How many beats fit into a lease (count), so that five can be missed before it is lost."""

_LONGEST_PAUSE_S: Final = 30.0
"""Longest time between two beats (seconds), because a cancel request waits for the next one."""

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
                bell = self.tracker.bell
                for record in self.tracker.in_phase(*_LEASED):
                    if (
                        self._pause_s(record) is not None
                        and record.job.id not in self._busy
                    ):
                        self._busy.add(record.job.id)
                        tasks.start_soon(
                            self._beat_while_leased,
                            record.job.id,
                            name=f"heartbeat {record.job.id}",
                        )
                await bell.wait()

    async def _beat_while_leased(self, job_id: str) -> None:
        try:
            while True:
                record = self.tracker.get(job_id)
                pause = None if record is None else self._pause_s(record)
                if pause is None:
                    return
                if await self._ended_within(job_id, pause):
                    return
                await self._beat(job_id)
        finally:
            self._busy.discard(job_id)

    async def _ended_within(self, job_id: str, pause: float) -> bool:
        """Wait for the next beat; True if the job needs none any more."""
        with anyio.move_on_after(pause):
            while True:
                bell = self.tracker.bell
                record = self.tracker.get(job_id)
                if record is None or record.phase not in _LEASED:
                    return True
                await bell.wait()
        return False

    async def _beat(self, job_id: str) -> None:
        record = self.tracker.get(job_id)
        if record is None:
            return
        try:
            beat = await self.source.heartbeat(record)
        except JobClosed as error:
            self._lost.add(record.job.claim_token)
            await self.tracker.apply(job_id, Event.LEASE_LOST)
            self._log.warning("lease_lost", error=str(error), **job_context(record))
        except RemoteError as error:
            self._log.warning(
                "heartbeat_failed", error=str(error), **job_context(record)
            )
        else:
            if beat.cancel_requested and not record.is_wanted_dead:
                await self.tracker.cancel(job_id, "Cancelled before it started.")

    def _pause_s(self, record: TrackedJob) -> float | None:
        """Return the seconds between two beats of a job, or None if it needs none."""
        job = record.job
        if (
            record.phase not in _LEASED
            or job.lease_s is None
            or "heartbeat" not in job.extensions
        ):
            return None
        return (
            None
            if job.claim_token in self._lost
            else min(job.lease_s / _BEATS_IN_A_LEASE, _LONGEST_PAUSE_S)
        )
