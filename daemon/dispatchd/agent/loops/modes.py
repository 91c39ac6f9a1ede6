"""Restoring modes: a run's sandbox doesn't block chmod(2), so the modes of the daemon's folders are restored at once."""

import os
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.store.held import HeldFolders
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.process import inotify

_LOOP: Final = "modes"

_REST_S: Final = 0.02
"""Rest after each round (seconds): a run that changes modes in a loop must not occupy the daemon."""


@define
class ModesLoop:
    """Watches the daemon's folders, and the folders of its runs."""

    _held: HeldFolders
    _bugs: BugFence
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Restore modes until cancelled."""
        try:
            changes = inotify.watch(self._held.descriptors)
        except OSError as error:
            self._log.warning("modes_not_watched", error=error.strerror)
            task_status.started()
            await anyio.sleep_forever()
            return
        try:
            task_status.started()
            await self._bugs.rounds(_LOOP, partial(self._round, changes))
        finally:
            os.close(changes)

    async def _round(self, changes: int) -> None:
        await anyio.wait_readable(changes)
        restored = self._held.restore(inotify.names(changes))
        self._bugs.worked(_LOOP)
        if restored:
            self._log.warning("folder_modes_restored", count=restored)
        await anyio.sleep(_REST_S)
