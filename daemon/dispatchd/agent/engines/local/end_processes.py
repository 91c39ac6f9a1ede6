"""End of the processes that a run has left: asked first, killed then, given up at last.

A run may leave more of them than this process may have descriptors, so one is held open at a time.
"""

import os
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio
from anyio import to_thread

from dispatchd.agent.domain.job import ProcessIdentity
from dispatchd.agent.engines.local.cgroup import Group
from dispatchd.agent.engines.local.process import (
    identify,
    is_alive,
    open_pidfd,
    send_all,
)

_GRACE_S: Final = 2.0
"""Time for leftovers of a run to end after SIGTERM (seconds)."""

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
