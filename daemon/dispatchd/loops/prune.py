"""Prune: what has been in history for longer than the retention time goes, with the files of its run.

So does a checkout that a crash has left behind its run: private code must not stay on the disk.
"""

from datetime import timedelta
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.domain.phase import Phase
from dispatchd.errors import StoreUnavailable
from dispatchd.loops.conclude import Concluder
from dispatchd.loops.ports import Clock
from dispatchd.store.jobs import JobStore
from dispatchd.store.runs import Runs

_EVERY_S: Final = 3600.0
"""Time between two rounds (seconds)."""


@define(kw_only=True)
class PruneLoop:
    """Keeps the state folder from growing for ever; `history_days` is the retention time in days."""

    store: JobStore
    runs: Runs
    concluder: Concluder
    clock: Clock
    history_days: float
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Prune at once and then every hour, until cancelled."""
        task_status.started()
        while True:
            try:
                removed = await to_thread.run_sync(self._round)
                await self._clear_abandoned()
            except StoreUnavailable as error:
                self._log.error("prune_failed", error=str(error))
            else:
                if removed:
                    self._log.info(
                        "history_pruned",
                        jobs=removed,
                        older_than_days=self.history_days,
                    )
            await anyio.sleep(_EVERY_S)

    def _round(self) -> int:
        before = self.clock.now() - timedelta(days=self.history_days)
        old = self.store.past_before(before)
        for record in old:
            # In this order a crash leaves a record, which is found again, and never a folder without one.
            self.runs.remove(record.run_id)
            self.store.forget(record)
        return len(old)

    async def _clear_abandoned(self) -> None:
        """Remove the private workspaces of jobs that will not run again."""
        private = await to_thread.run_sync(lambda: list(self.runs.private()))
        # After the folders: a job that came meanwhile is not mistaken for one that is gone.
        needed = {
            self.runs.folder(record.run_id).path
            for record in self.store.in_phase(*Phase)
            if record.phase is not Phase.FINISHING
        }
        for run in private:
            if run.path not in needed:
                await self.concluder.clear_workspace(run)
