"""Restoring modes: a run's sandbox doesn't block chmod(2), so the modes of the daemon's folders are restored at once."""

from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.store.held_folders import HeldFolders
from dispatchd.concurrency.bug_fence import BugFence

_LOOP: Final = "modes"

_REST_S: Final = 0.02
"""Rest after each round (seconds): a run that changes modes in a loop must not occupy the daemon."""


_AGAIN_S: Final = 60.0
"""Wait before watching is tried again where the kernel refuses it (seconds)."""

_LOOK_S: Final = 1.0
"""Interval between two looks at everything where nothing is watched (seconds)."""


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
        self._watch()
        task_status.started()
        await self._bugs.rounds(_LOOP, self._round)

    def _watch(self) -> None:
        try:
            self._held.watch()
        except OSError as error:
            # This user has too many; that may be the work of a run.
            self._log.warning(
                "modes_not_watched", error=error.strerror, retry_in_s=_AGAIN_S
            )

    async def _round(self) -> None:
        if self._held.changes >= 0:
            await anyio.wait_readable(self._held.changes)
            self._restore()
            await anyio.sleep(_REST_S)
            return
        with anyio.move_on_after(_AGAIN_S):
            while True:
                self._restore()
                await anyio.sleep(_LOOK_S)
        self._watch()

    def _restore(self) -> None:
        restored = self._held.restore()
        self._bugs.worked(_LOOP)
        if restored:
            self._log.warning("folder_modes_restored", count=restored)
