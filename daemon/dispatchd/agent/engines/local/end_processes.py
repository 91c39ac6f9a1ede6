"""End of the processes that a run has left: asked first, killed then, given up at last."""

import os
from contextlib import ExitStack
from select import POLLIN, poll
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio

from dispatchd.agent.engines.local.cgroup import Group
from dispatchd.agent.engines.local.process import send

_GRACE_S: Final = 2.0
"""Time for leftovers of a run to end after SIGTERM (seconds)."""

KILL_S: Final = 10.0
"""Longest wait for the end of killed processes (seconds); then they are given up."""


async def end_all(pids: set[int], group: Group | None) -> set[int]:
    """End processes, and return those that can't be ended: they hang in the kernel, or are another user's."""
    with ExitStack() as stack:
        left: dict[int, int] = {}
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, fd)
            left[pid] = fd
            send(fd, SIGTERM)
        await _until_gone(left, _GRACE_S)
        if left and group is not None:
            # The kernel kills them whoever owns them.
            group.kill()
        for fd in left.values():
            send(fd, SIGKILL)
        await _until_gone(left, KILL_S)
        return set(left)


async def _until_gone(left: dict[int, int], within_s: float) -> None:
    """Remove the processes that end within some seconds from a mapping of pid to pidfd."""
    with anyio.move_on_after(within_s):
        for pid, fd in list(left.items()):
            await anyio.wait_readable(fd)
            del left[pid]
    # Waiting for one that stays has left no time for the others.
    for pid, fd in list(left.items()):
        poller = poll()
        poller.register(fd, POLLIN)
        if poller.poll(0):
            del left[pid]
