"""The local engine: attempts as child processes, found again by identity after a restart.

It has no state of its own that matters: everything it needs is in the attempt's folder and in the
process identity that the caller has recorded. So the same call follows a run of this daemon and a run of
the daemon before it.
"""

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final, Self

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Checkout, Launch
from dispatchd.agent.domain.runnable_workflows import Machine
from dispatchd.agent.engines.local import bubblewrap
from dispatchd.agent.engines.local.cgroup import Cgroups
from dispatchd.agent.engines.local.checkout import check_out
from dispatchd.agent.engines.local.enclosure import enclose
from dispatchd.agent.engines.local.gate import Gated, read_exit
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.agent.engines.local.kill_leftovers import KILL_S, Leavings, until_ended
from dispatchd.agent.engines.local.podman import Podman
from dispatchd.agent.engines.local.process import (
    MARKER,
    below,
    boot_id,
    is_alive,
    open_pidfd,
    send_all,
    send_group,
)
from dispatchd.agent.engines.local.secrets import SecretReader, environment_of, recall
from dispatchd.agent.engines.local.starters import Starters
from dispatchd.agent.engines.local.walls import Walls
from dispatchd.protocol.outcome import Cleared, Exit, NeverStarted, Usage
from dispatchd.redaction.known_secrets import KnownSecrets

_INHERITED: Final = ("PATH", "HOME", "LANG", "TZ", "USER")
"""Variables of the daemon that a run gets; no others are passed on."""

_REAP_S: Final = 5.0
"""Longest wait for the end of a shim that has nothing to run (seconds)."""

_LOOK_AGAIN_S: Final = 60.0
"""Time for which an isolation that can't be had is not tried again (seconds)."""


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the daemon's own environment that a run, or a git of ours, gets."""
    return {name: environment[name] for name in _INHERITED if name in environment}


@define
class LocalEngine:
    """Runs attempts on this machine. Implements `tracking.ports.Engine`."""

    _secrets: SecretReader
    _known: KnownSecrets
    walls: Walls
    _cgroups: Cgroups | None = None
    _git_way: GitWay = field(factory=GitWay)
    _podman: Podman = field(init=False)
    _starters: Starters = field(init=False)
    _now: Callable[[], float] = time.monotonic
    _blocked_reasons: dict[Isolation, tuple[str, float]] = field(
        factory=dict, init=False
    )
    """Isolations that were checked: the reason why no run can have one here, and the time until which that counts."""
    _begun: set[ProcessIdentity] = field(factory=set, init=False)
    """Attempts whose gate this daemon has opened: they have begun, whatever they do to their folders."""
    _leavings: Leavings = field(init=False)

    @classmethod
    def here(
        cls,
        environment: Mapping[str, str],
        known: KnownSecrets,
        folders: Iterable[Path] = (),
        git_way: GitWay | None = None,
    ) -> Self:
        """Return the engine of this machine for a daemon; its caller closes it.

        Args:
            environment: The daemon's own.
            known: Store of the runs' secrets.
            folders: The daemon's own folders, which no run can reach.
            git_way: Git's connection to servers.
        """
        walls = Walls.here(environment, folders)
        reader = SecretReader(environment=environment)
        return cls(reader, known, walls, Cgroups.find(), git_way or GitWay())

    @property
    def inherited(self) -> Mapping[str, str]:
        """Variables of the daemon that every run gets."""
        return inherited(self._secrets.environment)

    @property
    def controllers(self) -> tuple[str, ...]:
        """Limits of runs that can be set (controllers of cgroup v2)."""
        return () if self._cgroups is None else self._cgroups.controllers

    @property
    def machine(self) -> Machine:
        """Abilities of this machine for runs."""
        return Machine(controllers=self.controllers, blocked_reason=self.blocked_reason)

    @property
    def containment(self) -> str:
        """Means that keep the processes of a run together, in words."""
        groups = self._cgroups
        return "sessions and process groups" if groups is None else groups.description

    @_podman.default
    def _new_podman(self) -> Podman:
        return Podman(self._secrets.environment)

    @_starters.default
    def _new_starters(self) -> Starters:
        return Starters.of(self._secrets.environment)

    @_leavings.default
    def _new_leavings(self) -> Leavings:
        return Leavings(self._starters, self._cgroups)

    async def start(
        self, launch: Launch, record: Callable[[ProcessIdentity], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before the command may run."""
        env = await self.supply(launch)
        if launch.isolation is Isolation.CONTAINER:
            await self._podman.fetch(launch.image, launch.pull)
        gated = await to_thread.run_sync(self._spawn, launch, env)
        try:
            await record(gated.identity)
            self._leavings.expect(gated.identity, launch.folder)
            self._begun.add(gated.identity)
            gated.open()
        finally:
            os.close(gated.gate)
            if gated.identity not in self._begun:
                # Its job may be lost, and then nothing follows the attempt.
                with anyio.CancelScope(shield=True):
                    await self._see_off(gated.identity)

    async def supply(self, launch: Launch) -> dict[str, str]:
        """Read an attempt's secrets, fill its workspace, and return its whole environment, for any engine.

        Raises:
            RunError: A secret isn't available, or the repository can't be checked out.
        """
        env, values = await environment_of(launch, self._secrets)
        self._known.know(str(launch.folder), values)
        if launch.checkout is not None:
            await self._fill(launch, launch.checkout)
        return env

    def knows(self, folder: Path) -> bool:
        """Return whether the secrets of an attempt are known."""
        return self._known.knows(str(folder))

    @property
    def environment(self) -> Mapping[str, str]:
        """The daemon's own environment."""
        return self._secrets.environment

    async def _see_off(self, process: ProcessIdentity) -> None:
        """Wait for the end of a shim whose gate stays closed."""
        fd = open_pidfd(process)
        if fd is None:
            return
        try:
            with anyio.move_on_after(_REAP_S):
                await anyio.wait_readable(fd)
                await to_thread.run_sync(self._starters.status, process.pid)
        finally:
            os.close(fd)
            self._leavings.forget(process)

    def close(self) -> None:
        """End the starters; the runs continue."""
        self._starters.close()

    def _spawn(self, launch: Launch, env: Mapping[str, str]) -> Gated:
        group = self._group(launch)
        try:
            own = {**env, MARKER: str(launch.folder)}
            enclosed = enclose(launch, own, self.walls, self._podman)
            if launch.isolation is Isolation.CONTAINER:
                self._podman.note(launch.folder)
            starter = self._starters.starter_for(enclosed)
            gated = Gated.spawn(launch, enclosed, starter, group)
        finally:
            if group >= 0:
                os.close(group)
        return gated

    def _group(self, launch: Launch) -> int:
        if self._cgroups is None:
            return -1
        try:
            return self._cgroups.prepare(launch.folder, launch.resources)
        except OSError as error:
            # The sweep by environment still works.
            structlog.get_logger().warning(
                "cgroup_refused", error=str(error), run_id=launch.run_id
            )
            return -1

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

    def log_isolation(self) -> None:
        """Log the sandbox of this machine, and a warning where it doesn't protect."""
        log, weakness = structlog.get_logger(), self.weakness(Isolation.SANDBOX)
        log.info("isolation", sandbox=self.walls.description)
        if weakness:
            to_do = "see docs/security.md; jobs from forks are refused"
            log.warning("isolation_is_weak", reason=weakness, to_do=to_do)

    def weakness(self, isolation: Isolation) -> str:
        """Return the reason why an isolation doesn't protect the machine; empty if it does. May block once."""
        match isolation:
            case Isolation.SANDBOX:
                return self.walls.weakness
            case Isolation.NONE:
                return 'its workflow has isolation = "none"'
            case _:
                return self.blocked_reason(isolation)

    def blocked_reason(self, isolation: Isolation) -> str:
        """Return the reason why no run can have an isolation here; empty if it can.

        A problem is checked again after a minute at the earliest, success never again. May block for a moment.
        """
        _, until = self._blocked_reasons.get(isolation, ("", 0.0))
        if self._now() >= until:
            path = self._secrets.environment.get("PATH", os.defpath)
            match isolation:
                case Isolation.BUBBLEWRAP:
                    reason = bubblewrap.problem(path)
                case Isolation.CONTAINER:
                    reason = self._podman.problem
                case _:
                    reason = ""
            until = self._now() + _LOOK_AGAIN_S if reason else inf
            self._blocked_reasons[isolation] = reason, until
        return self._blocked_reasons[isolation][0]

    async def recall(self, process: ProcessIdentity, folder: Path) -> bool:
        """Load the secrets of an attempt that another daemon started. Return False if they are lost."""
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
        """Wait until an attempt has ended, and return its end. Return at once if it has ended before."""
        self._leavings.expect(process, folder)
        await until_ended(process)
        # A look costs less than a thread, and the starter is as fast as this process.
        status = self._starters.heard(process.pid)
        if status is None:
            status = await to_thread.run_sync(self._starters.status, process.pid)
        begun = process in self._begun
        self._begun.discard(process)
        if begun and status is not None:
            # The kernel's status counts before any file.
            return Exit(code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None)
        end = read_exit(folder, process)
        if isinstance(end, NeverStarted):
            if begun:
                return Exit(code=None)
            # Nobody will clear it.
            self._leavings.forget(process)
        return end

    def has_ended(self, process: ProcessIdentity) -> bool:
        """Return whether an attempt has ended, observed or not."""
        return not is_alive(process)

    async def stop(self, process: ProcessIdentity, grace_s: float) -> bool:
        """End an attempt: SIGTERM to its group, SIGKILL after the grace. Return whether SIGKILL was needed."""
        fd = open_pidfd(process)
        if fd is None:
            return False
        try:
            send_group(process, SIGTERM)
            with anyio.move_on_after(grace_s):
                await anyio.wait_readable(fd)
                return False
            # Before the leader dies: afterwards its descendants can't be found any more.
            others = await to_thread.run_sync(below, process.pid)
            send_group(process, SIGKILL)
            await to_thread.run_sync(send_all, others, SIGKILL)
            with anyio.move_on_after(KILL_S):
                await anyio.wait_readable(fd)
            return True
        finally:
            os.close(fd)

    def usage(self, folder: Path) -> Usage | None:
        """Return the resources that an attempt used, as its control group counted them."""
        group = self._leavings.group_of(folder)
        return None if group is None else group.usage()

    async def clear(self, process: ProcessIdentity, folder: Path) -> Cleared:
        """End everything that an attempt left behind, wherever it is, and give up processes that can't be ended."""
        if process.boot_id == boot_id() and self._podman.is_noted(folder):
            await self._podman.remove(folder)
        return await self._leavings.clear(process, folder)
