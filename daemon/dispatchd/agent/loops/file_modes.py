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
    _again_at: float = field(default=0.0, init=False)
    """When watching is tried again where the kernel has refused it (seconds, loop time)."""
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
            self._again_at = anyio.current_time() + _AGAIN_S
            self._log.warning(
                "modes_not_watched", error=error.strerror, retry_in_s=_AGAIN_S
            )

    async def _round(self) -> None:
        is_watched = self._held.changes >= 0
        if is_watched:
            await anyio.wait_readable(self._held.changes)
        restored = self._held.restore()
        self._bugs.worked(_LOOP)
        if restored:
            self._log.warning("folder_modes_restored", count=restored)
        await anyio.sleep(_REST_S if is_watched else _LOOK_S)
        if not is_watched and anyio.current_time() >= self._again_at:
            self._watch()
