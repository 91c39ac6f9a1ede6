"""The local engine: attempts as child processes, found again by identity after a restart.

It keeps no state of its own that matters: everything it needs is in the attempt's folder and in the
process identity that the caller has recorded. So following a run that this daemon started and one that
the daemon before it started are the same call.
"""

import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from select import POLLIN, poll
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.domain.job import ProcessIdentity
from dispatchd.domain.launch import Checkout, Launch
from dispatchd.domain.outcome import Cleared, Exit, NeverStarted
from dispatchd.domain.resources import Usage
from dispatchd.engines.local.cgroup import Cgroups, Group
from dispatchd.engines.local.checkout import check_out
from dispatchd.engines.local.gate import MARKER, Gated, read_exit
from dispatchd.engines.local.git_way import GitWay
from dispatchd.engines.local.process import (
    boot_id,
    describe,
    members,
    open_pidfd,
    send,
    send_group,
)
from dispatchd.engines.local.secrets import SecretReader, environment_of, recall
from dispatchd.redaction.known_secrets import KnownSecrets

_LEFTOVER_GRACE_S: Final = 2.0
"""How long what a run left behind may take to end after SIGTERM (seconds)."""

_KILL_S: Final = 10.0
"""How long the end of what was killed is waited for (seconds); then it is given up."""

_REAP_S: Final = 5.0
"""How long the end of a shim that has nothing to run is waited for (seconds)."""

_SWEEPS: Final = 20
"""How often the sweep for leftovers is repeated at most (count): each ends all that it sees."""


@define
class LocalEngine:
    """Runs attempts on this machine. Implements `loops.ports.Engine`."""

    _secrets: SecretReader
    _known: KnownSecrets
    _cgroups: Cgroups | None = None
    _git_way: GitWay = field(factory=GitWay)
    _children: dict[int, subprocess.Popen[bytes]] = field(factory=dict, init=False)
    _begun: set[ProcessIdentity] = field(factory=set, init=False)
    """Whose gate this daemon has opened: whatever they do to their folders, they have begun."""

    async def start(
        self, launch: Launch, record: Callable[[ProcessIdentity], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before the command may run."""
        env, values = await environment_of(launch, self._secrets)
        self._known.know(str(launch.folder), values)
        if launch.checkout is not None:
            await self._fill(launch, launch.checkout)
        gated = await to_thread.run_sync(self._spawn, launch, env)
        self._children[gated.identity.pid] = gated.child
        try:
            await record(gated.identity)
            self._begun.add(gated.identity)
            gated.open()
        finally:
            os.close(gated.gate)
            if gated.identity not in self._begun:
                # Its job may be lost, and then nobody follows it.
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._reap, gated)

    def _reap(self, gated: Gated) -> None:
        """Wait for the end of a shim whose gate stays closed. Blocks for a moment."""
        with suppress(subprocess.TimeoutExpired):
            gated.child.wait(_REAP_S)
            self._children.pop(gated.identity.pid, None)

    def _spawn(self, launch: Launch, env: Mapping[str, str]) -> Gated:
        gated = Gated.spawn(launch, env)
        if self._cgroups is not None:
            try:
                self._cgroups.admit(gated.identity.pid, launch.folder, launch.resources)
            except OSError as error:
                # The sweep by environment is still there.
                structlog.get_logger().warning(
                    "cgroup_refused", error=str(error), run_id=launch.run_id
                )
        return gated

    async def _fill(self, launch: Launch, checkout: Checkout) -> None:
        token = None
        if launch.token is not None:
            token = await self._secrets.read(launch.token)
            self._known.know(str(launch.folder), [token])
        await check_out(
            checkout,
            launch.workspace,
            token=token,
            env=launch.base_env,
            scratch=launch.folder,
            way=self._git_way,
        )

    async def recall(self, process: ProcessIdentity, folder: Path) -> bool:
        """Know the secrets of an attempt again that another daemon started; False if they are lost."""
        if not self._known.knows(str(folder)):
            values = await to_thread.run_sync(recall, process)
            if values is None:
                return False
            self._known.know(str(folder), values)
        return True

    def forget(self, folder: Path) -> None:
        """Forget the secrets of an attempt that is over."""
        self._known.forget(str(folder))

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
        status = None if child is None else child.wait()
        ended_itself = status is not None and status >= 0
        end = read_exit(folder, process, status if ended_itself else None)
        if process in self._begun:
            self._begun.discard(process)
            return Exit(code=None) if isinstance(end, NeverStarted) else end
        return end

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
            with anyio.move_on_after(_KILL_S):
                await anyio.wait_readable(fd)
            return True
        finally:
            os.close(fd)

    def usage(self, folder: Path) -> Usage | None:
        """Return what an attempt has taken of the machine, as its control group has counted it."""
        group = Group.of(folder)
        return None if group is None else group.usage()

    async def clear(self, process: ProcessIdentity, folder: Path) -> Cleared:
        """End what an attempt left behind, wherever it went, and give up what can't be ended."""
        if process.boot_id != boot_id():
            return Cleared()
        marker = os.fsencode(f"{MARKER}={folder}")
        group = Group.of(folder)
        seen: set[int] = set()
        given_up: set[int] = set()
        for _ in range(_SWEEPS):
            left = await to_thread.run_sync(_left_behind, process, marker, group)
            if left <= given_up:
                break
            seen |= left
            given_up |= await _end_all(left - given_up, group)
        # It may be the leader that was given up.
        child = self._children.get(process.pid)
        if child is not None and child.poll() is not None:
            del self._children[process.pid]
        if group is not None:
            await to_thread.run_sync(group.remove)
        described = [describe(pid) for pid in sorted(given_up)]
        survivors = tuple(each for each in described if each is not None)
        return Cleared(ended=len(seen) - len(survivors), survivors=survivors)


def _left_behind(
    process: ProcessIdentity, marker: bytes, group: Group | None
) -> set[int]:
    inside = group.members() if group is not None else []
    return {*members(process, marker), *inside}


async def _end_all(pids: set[int], group: Group | None) -> set[int]:
    """End processes, and return those that can't be: they hang in the kernel, or are another user's."""
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
        await _until_gone(left, _LEFTOVER_GRACE_S)
        if left and group is not None:
            # The kernel doesn't ask whose they are.
            group.kill()
        for fd in left.values():
            send(fd, SIGKILL)
        await _until_gone(left, _KILL_S)
        return set(left)


async def _until_gone(left: dict[int, int], within_s: float) -> None:
    """Take those out of some processes, pid to pidfd, that end within some seconds."""
    with anyio.move_on_after(within_s):
        for pid, fd in list(left.items()):
            await anyio.wait_readable(fd)
            del left[pid]
    # One that stays has kept the others from being looked at.
    for pid, fd in list(left.items()):
        poller = poll()
        poller.register(fd, POLLIN)
        if poller.poll(0):
            del left[pid]
