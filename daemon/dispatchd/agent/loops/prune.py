"""Prune: remove jobs that have been in history for longer than the retention time, with the files of their runs.

A checkout that a crash has left behind is removed too: private code must not stay on the disk. A wrong clock must
not forget everything, because a forgotten job would run again. So time counts as passed only when both this machine's
clock and the endpoint's show it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.errors import StoreUnavailable

_LOOP: Final = "prune"

_EVERY_S: Final = 3600.0
"""Time between two rounds (seconds)."""

_MOST_NAMED: Final = 5
"""Most runs that can't be pruned in one message (count)."""

_RESOLUTION: Final = timedelta(seconds=1)
"""Resolution of the endpoint's clock (`Date`, RFC 9110 section 5.6.7): its time may be later by up to this much."""


@define(kw_only=True)
class PruneLoop:
    """Keeps the state folder from growing forever."""

    store: JobStore
    tracker: Tracker
    runs: Runs
    workspaces: Workspaces
    endpoint_time: Callable[[], datetime | None]
    """Returns the time on the endpoint's clock, or None while it isn't known."""
    context: Context
    _refused: dict[str, str] = field(factory=dict, init=False)
    """Jobs that couldn't be forgotten in the last round, with the reason."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Prune at once and then every hour, until cancelled."""
        task_status.started()
        await self.context.bugs.rounds(_LOOP, self._round)

    async def _round(self) -> None:
        heard = self.endpoint_time()
        if heard is not None:
            await self._prune(min(heard + _RESOLUTION, self.context.clock.now()))
        await self._clear_abandoned()
        await self.workspaces.remove_all()
        self.context.bugs.worked(_LOOP)
        if heard is None:
            await self._until_heard()
        else:
            await anyio.sleep(_EVERY_S)

    async def _until_heard(self) -> None:
        """Wait for the endpoint's time, but not beyond the next round."""
        with anyio.move_on_after(_EVERY_S):
            while True:
                changed = self.context.activity.changed.next
                if self.endpoint_time() is not None:
                    return
                await changed.wait()

    async def _prune(self, now: datetime) -> None:
        history_days = self.context.config.history_days
        before = now - timedelta(days=history_days)
        old = await to_thread.run_sync(self.store.past_before, before)
        removed, refused = 0, {}
        for record in old:
            job_id = record.job.id
            with self.context.bugs.contained(_LOOP, {"job_id": job_id}):
                try:
                    removed += await self._forget(record)
                except StoreUnavailable as error:
                    refused[job_id] = str(error)
                    if self._refused.get(job_id) != str(error):
                        self._log.error("prune_failed", job_id=job_id, error=str(error))
        self._refused = refused
        if removed:
            self._log.info("history_pruned", jobs=removed, older_than_days=history_days)

    async def _forget(self, old: TrackedJob) -> bool:
        """Forget a job, unless it has come again meanwhile. Return whether it is gone."""
        async with self.tracker.holding(old.job.id) as newest:
            if newest != old:
                return False
            await to_thread.run_sync(self._take_away, old)
            return True

    @property
    def problems(self) -> list[str]:
        """Runs that can't be pruned at the moment, one sentence each."""
        refused = [
            f"job {job_id} can't be forgotten: {why}"
            for job_id, why in self._refused.items()
        ]
        problems = [*self.workspaces.stays.values(), *refused]
        more = len(problems) - _MOST_NAMED
        return problems[:_MOST_NAMED] + (
            [f"{more} more can't be pruned; the log names them"] if more > 0 else []
        )

    def _take_away(self, record: TrackedJob) -> None:
        # In this order a crash leaves a record, which is found again, and never a folder without one.
        self.runs.retire(record.run_id)
        self.store.forget(record)

    async def _clear_abandoned(self) -> None:
        """Remove the private workspaces of jobs that will not run again."""
        for name in await to_thread.run_sync(self.runs.private):
            with self.context.bugs.contained(_LOOP, {"folder": name}):
                await self._clear(name)

    async def _clear(self, name: str) -> None:
        job_id = await to_thread.run_sync(self.store.id_behind, name)
        if job_id is None:
            self._log.error("private_code_of_unknown_job", folder=name)
        else:
            await self.workspaces.clear(job_id)
