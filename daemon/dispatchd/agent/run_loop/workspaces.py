"""Removal of checkouts: private code is removed as soon as its job no longer needs it, whatever else happens.

Only the holder of a job touches its run's folder. So a checkout is moved away under the job's lock, which takes
a moment, and removed where nothing uses it any more.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.store.trash import remove_tree
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import StoreUnavailable

_IN_USE: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.NEEDS_ATTENTION,
)
"""Phases in which a workspace is in use, or may be read by a person or the next attempt."""

_REMOVE_S: Final = 60.0
"""Longest wait for the removal of one checkout (seconds)."""


@define
class Workspaces:
    """Clears the workspaces of jobs."""

    _tracker: Tracker
    _runs: Runs
    _bugs: BugFence
    stays: dict[Path, str] = field(factory=dict, init=False)
    """Files that can't be removed at the moment, with what to do about each, in words."""
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def clear(self, job_id: str) -> None:
        """Remove a job's checkout, if it has one and no longer needs it. Log it if something stays."""
        # The run's id is the job's.
        run = self._runs.folder(job_id)
        if not run.private_mark.exists():
            return
        try:
            # A stop must not come between the move and its log line.
            with anyio.CancelScope(shield=True):
                async with self._tracker.holding(job_id) as newest:
                    if newest is not None and newest.phase in _IN_USE:
                        return
                    retired = await to_thread.run_sync(self._runs.retire_workspace, run)
        except StoreUnavailable as error:
            self._say_left(error)
        else:
            await self.remove(retired)

    async def remove_all(self) -> None:
        """Remove everything that is no longer needed, including the leftovers of an earlier daemon."""
        retired = await to_thread.run_sync(self._runs.trash.contents)
        for gone in self.stays.keys() - set(retired):
            del self.stays[gone]
        await self.remove(retired)

    async def clear_scratch(self, run_id: str, number: int) -> None:
        """Remove the files of an ended attempt that are no longer needed: its home and its temporary files."""
        run = self._runs.folder(run_id)
        try:
            retired = await to_thread.run_sync(self._runs.retire_scratch, run, number)
        except StoreUnavailable as error:
            self._log.warning(
                "scratch_left_on_disk", path=str(error.path), error=str(error)
            )
        else:
            await self.remove(retired)

    async def remove(self, retired: Iterable[Path]) -> None:
        """Remove retired files. Log the ones that stay; the next round of pruning tries them again.

        Each stands by itself: one that can't be removed doesn't keep the others.
        """
        for path in retired:
            with self._bugs.contained("prune", {"path": str(path)}):
                await self._remove(path)

    async def _remove(self, retired: Path) -> None:
        try:
            await self._threads.run(
                retired, partial(remove_tree, retired), within_s=_REMOVE_S
            )
        except TimeoutError as error:
            self._log.warning("removal_takes_long", path=str(retired), error=str(error))
        except StoreUnavailable as error:
            reason = error.error.strerror
            message = f"{retired} can't be removed ({error.path}: {reason}): remove it as root; it is tried again every hour"
            if retired not in self.stays:
                self._log.error("folder_not_removed", path=str(retired), error=message)
            self.stays[retired] = message
        else:
            self.stays.pop(retired, None)

    def _say_left(self, error: StoreUnavailable) -> None:
        self._log.error(
            "private_code_left_on_disk", path=str(error.path), error=str(error)
        )
