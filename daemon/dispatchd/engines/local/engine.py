"""The local engine: attempts as child processes, found again by identity after a restart.

It keeps no state of its own that matters: everything it needs is in the attempt's folder and in the
process identity that the caller has recorded. So following a run that this daemon started and one that
the daemon before it started are the same call.
"""

import os
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio
from anyio import to_thread
from attrs import define, field

from dispatchd.domain.job import ProcessIdentity
from dispatchd.domain.launch import Launch
from dispatchd.domain.outcome import Exit, NeverStarted
from dispatchd.engines.local.gate import MARKER, Gated, read_exit
from dispatchd.engines.local.process import (
    boot_id,
    open_pidfd,
    send,
    send_group,
    session_members,
)

_LEFTOVER_GRACE_S: Final = 2.0
"""How long what a run left behind may take to end after SIGTERM (seconds)."""

_SWEEPS: Final = 20
"""How often the sweep for leftovers is repeated at most (count): each ends all that it sees."""


@define
class LocalEngine:
    """Runs attempts on this machine. Implements `loops.ports.Engine`."""

    _children: dict[int, subprocess.Popen[bytes]] = field(factory=dict, init=False)

    async def start(
        self, launch: Launch, record: Callable[[ProcessIdentity], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before the command may run."""
        gated = await to_thread.run_sync(Gated.spawn, launch)
        self._children[gated.identity.pid] = gated.child
        try:
            await record(gated.identity)
            gated.open()
        finally:
            os.close(gated.gate)

    async def observe(
        self, process: ProcessIdentity, folder: Path
    ) -> Exit | NeverStarted:
        """Wait until an attempt has ended, and return how; at once if it has ended before."""
        fd = open_pidfd(process)
        if fd is not None:
            try:
                await anyio.wait_readable(fd)
            finally:
                os.close(fd)
        child = self._children.pop(process.pid, None)
        if child is not None:
            child.wait()
        return read_exit(folder, process)

    async def stop(self, process: ProcessIdentity, grace_s: float) -> bool:
        """End an attempt: SIGTERM to its group, SIGKILL after the grace; return whether that was needed."""
        fd = open_pidfd(process)
        if fd is None:
            return False
        try:
            send_group(process, SIGTERM)
            with anyio.move_on_after(grace_s):
                await anyio.wait_readable(fd)
                return False
            send_group(process, SIGKILL)
            await anyio.wait_readable(fd)
            return True
        finally:
            os.close(fd)

    async def clear(self, process: ProcessIdentity, folder: Path) -> int:
        """End what an attempt left behind in its session, and return how many processes that were."""
        if process.boot_id != boot_id():
            return 0
        marker = os.fsencode(f"{MARKER}={folder}")
        ended: set[int] = set()
        for _ in range(_SWEEPS):
            # A process group's signal 0 costs nothing, a walk through /proc a few milliseconds.
            if not _group_exists(process.pid):
                break
            left = await to_thread.run_sync(
                lambda: list(session_members(process, marker))
            )
            if not left:
                break
            ended.update(left)
            await _end_all(left)
        return len(ended)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _end_all(pids: list[int]) -> None:
    with ExitStack() as stack:
        fds = []
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, fd)
            fds.append(fd)
            send(fd, SIGTERM)
        with anyio.move_on_after(_LEFTOVER_GRACE_S):
            for fd in fds:
                await anyio.wait_readable(fd)
            return
        for fd in fds:
            send(fd, SIGKILL)
            await anyio.wait_readable(fd)
