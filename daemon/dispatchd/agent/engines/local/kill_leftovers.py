"""End of the processes that a run has left: asked first, killed then, given up at last.

A run may leave more of them than this process may have descriptors, so one is held open at a time.
"""

import os
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.engines.local.cgroup import Cgroups, Group
from dispatchd.agent.engines.local.gate import read_leftovers
from dispatchd.agent.engines.local.process import (
    boot_id,
    describe,
    identify,
    is_alive,
    marker_of,
    members,
    open_pidfd,
    send_all,
    without,
)
from dispatchd.agent.engines.local.starters import Starters
from dispatchd.protocol.outcome import Cleared

_GRACE_S: Final = 2.0
"""Time for leftovers of a run to end after SIGTERM (seconds)."""

_SWEEPS: Final = 20
"""Most sweeps for leftovers (count): each ends all processes that it sees."""

KILL_S: Final = 10.0
"""Longest wait for the end of killed processes (seconds); then they are given up."""


async def until_ended(process: ProcessIdentity) -> None:
    """Wait until a process has ended. Return at once if it has ended before."""
    fd = open_pidfd(process)
    if fd is not None:
        try:
            await anyio.wait_readable(fd)
        finally:
            os.close(fd)


async def end_all(pids: set[int], group: Group | None) -> set[int]:
    """End processes, and return those that can't be ended: they hang in the kernel, or are another user's."""
    known = await to_thread.run_sync(lambda: [identify(pid) for pid in pids])
    left = {process for process in known if process is not None}
    await to_thread.run_sync(send_all, left, SIGTERM)
    await _until_gone(left, _GRACE_S)
    if left and group is not None:
        # The kernel kills them whoever owns them.
        group.kill()
    await to_thread.run_sync(send_all, left, SIGKILL)
    await _until_gone(left, KILL_S)
    return {process.pid for process in left}


async def _until_gone(left: set[ProcessIdentity], within_s: float) -> None:
    """Remove the processes that end within some seconds from a set."""
    with anyio.move_on_after(within_s):
        for process in list(left):
            await until_ended(process)
            left.discard(process)
    # Waiting for one that stays has left no time for the others.
    gone = await to_thread.run_sync(
        lambda: [each for each in left if not is_alive(each)]
    )
    left.difference_update(gone)


@define
class Leavings:
    """Processes that attempts have left, wherever they are."""

    _starters: Starters
    _cgroups: Cgroups | None
    _uncleared: dict[ProcessIdentity, bytes] = field(factory=dict, init=False)
    """Markers of the attempts that were not cleared yet."""

    def expect(self, process: ProcessIdentity, folder: Path) -> None:
        """Note an attempt, which will be cleared when it has ended."""
        self._uncleared[process] = marker_of(folder)

    def forget(self, process: ProcessIdentity) -> None:
        """Forget an attempt that has left nothing more, or never began."""
        self._uncleared.pop(process, None)
        self._starters.forget(process.pid)

    def group_of(self, folder: Path) -> Group | None:
        """Return the group of an attempt: in this daemon's part of the tree, or that of a daemon started elsewhere."""
        if self._cgroups is not None:
            group = self._cgroups.group_of(folder)
            if group is not None:
                return group
        return Group.of(folder)

    async def clear(self, process: ProcessIdentity, folder: Path) -> Cleared:
        """End everything that an attempt left, and give up processes that can't be ended."""
        try:
            return await self._clear(process, folder)
        finally:
            self.forget(process)

    def _cleared_at_once(
        self,
        process: ProcessIdentity,
        marker: bytes,
        group: Group | None,
        folder: Path,
    ) -> Cleared | None:
        """Clear an attempt that has left nothing, as most do. Return None, and do nothing, if something may be left. Blocks."""
        left, ended = self._left_behind(process, marker, group)
        if left or ended:
            return None
        if group is not None:
            group.remove()
        strays, before = self._left_elsewhere(folder)
        return Cleared(ended=before + len(strays))

    async def _clear(self, process: ProcessIdentity, folder: Path) -> Cleared:
        if process.boot_id != boot_id():
            return Cleared()
        marker = marker_of(folder)
        group = self.group_of(folder)
        cleared = await to_thread.run_sync(
            self._cleared_at_once, process, marker, group, folder
        )
        if cleared is not None:
            return cleared
        seen: set[int] = set()
        given_up: set[int] = set()
        gone: set[int] = set()
        for _ in range(_SWEEPS):
            left, over = await to_thread.run_sync(
                self._left_behind, process, marker, group
            )
            # One that had ended at the last look, too, has left nothing since.
            if left <= given_up and over <= gone:
                break
            gone |= over
            seen |= left
            given_up |= await end_all(left - given_up, group)
        else:
            given_up |= await to_thread.run_sync(self._hunt, process, marker, group)
        if group is not None:
            await to_thread.run_sync(group.remove)
        strays, before = await to_thread.run_sync(self._left_elsewhere, folder)
        seen |= strays
        described = [describe(pid) for pid in sorted(given_up)]
        survivors = tuple(survivor for survivor in described if survivor is not None)
        ended = before + len(seen) - len(survivors)
        return Cleared(ended=ended, survivors=survivors)

    def _left_behind(
        self, process: ProcessIdentity, marker: bytes, group: Group | None
    ) -> tuple[set[int], set[int]]:
        """Return the processes left of an attempt, and those that have ended, which may continue in a child."""
        inside = group.members() if group is not None else []
        # What is below a starter is of a run that has ended. A marker can be a lie, so it spares nobody unless the
        # attempt that it names has ended, too, and is about to be cleared. Asked in this order.
        left = self._starters.left()
        below, ended = without(left, self._also_ended - {marker})
        # Asked after the look: a starter that was killed meanwhile has shown nothing.
        if not self._starters.have_adopted(process.pid):
            below.update(members(process, marker))
        return {*inside, *below}, ended

    @property
    def _also_ended(self) -> set[bytes]:
        """Markers of the attempts that have ended and were not cleared yet."""
        known = list(self._uncleared.items())
        return {marker for process, marker in known if not is_alive(process)}

    def _hunt(
        self, process: ProcessIdentity, marker: bytes, group: Group | None
    ) -> set[int]:
        """Kill processes that are others at each look, and so can't be asked to end. Return the processes that are left."""
        if group is not None:
            group.kill()
        self._starters.hunt()
        return self._left_behind(process, marker, group)[0]

    def _left_elsewhere(self, folder: Path) -> tuple[set[int], int]:
        """End what is in groups of runs' own making; return its pids, and the number that the shim has ended."""
        strays = self._cgroups.end_strays() if self._cgroups is not None else set()
        return strays, read_leftovers(folder)
