"""Removing checkouts: private code goes when its job needs it no more, whatever else goes on.

A run's folder is touched only by who holds its job. So a checkout is moved away under the job's lock, which takes
a moment, and removed where nobody works any more.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.domain.phase import Phase
from dispatchd.errors import StoreUnavailable
from dispatchd.loops.tracker import Tracker
from dispatchd.store.runs import Runs
from dispatchd.store.trash import remove_tree

_IN_USE: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.NEEDS_ATTENTION,
)
"""Phases in which a workspace is in use, or may be looked at by a person or the next attempt."""

_REMOVE_S: Final = 60.0
"""How long the removal of one checkout is waited for (seconds)."""


@define
class Workspaces:
    """Clears the workspaces of jobs."""

    _tracker: Tracker
    _runs: Runs
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def clear(self, job_id: str) -> None:
        """Remove a job's checkout, if it has one and needs it no more; say so if something stays."""
        # The run's id is the job's.
        run = self._runs.folder(job_id)
        if not run.private_mark.exists():
            return
        try:
            # A stop must not come between the move and what is said of it.
            with anyio.CancelScope(shield=True):
                async with self._tracker.holding(job_id) as newest:
                    if newest is not None and newest.phase in _IN_USE:
                        return
                    retired = await to_thread.run_sync(self._runs.retire_workspace, run)
        except StoreUnavailable as error:
            self._say_left(error)
        else:
            await self.remove(retired)

    async def clear_scratch(self, run_id: str, number: int) -> None:
        """Remove what nobody needs of an attempt that has ended: its home and its temporary files."""
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
        """Remove what nobody needs any more; say what stays, which the next round of pruning takes up again."""
        for each in retired:
            try:
                await self._threads.run(
                    each, partial(remove_tree, each), within_s=_REMOVE_S
                )
            except TimeoutError as error:
                self._log.warning(
                    "removal_takes_long", path=str(each), error=str(error)
                )
            except StoreUnavailable as error:
                self._say_left(error)

    def _say_left(self, error: StoreUnavailable) -> None:
        self._log.error(
            "private_code_left_on_disk", path=str(error.path), error=str(error)
        )
