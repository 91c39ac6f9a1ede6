"""Podman: a command line that runs a command in a container, and the steps before and after it.

The client runs beside the shim and outside of the container; its exit code is the command's (podman-run(1)). One
call behind the gate makes and starts a container, so none is ever started twice.
"""

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
import structlog
from attrs import define

from dispatchd.agent.domain.isolation import Network, PullPolicy
from dispatchd.agent.domain.launch import Launch
from dispatchd.errors import SpawnFailed
from dispatchd.linux.landlock import Access, Rule
from dispatchd.protocol.times import duration

_TERMINALS: Final = "/dev/pts"

_NOTE: Final = "container"
"""File of an attempt's folder that notes that it has a container."""

_OF_THE_CLIENT: Final = (
    *("HOME", "PATH", "TMPDIR", "USER", "LANG"),
    *(
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "DBUS_SESSION_BUS_ADDRESS",
    ),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    *("CONTAINER_HOST", "REGISTRY_AUTH_FILE"),
)
"""Variables that podman itself reads: they keep the daemon's values, and the command's are passed in another way."""

_PULL_S: Final = 1800.0
"""Time limit of a pull (seconds)."""

_CALL_S: Final = 60.0
"""Time limit of any other call (seconds)."""

_TRIES: Final = 3
"""Attempts to remove a container (count)."""

_PROBE: Final = (
    *("unshare", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"),
    *("--mount-proc", "sh", "-c", "! command -v hostname || hostname dispatchd"),
)
"""Arguments for podman that do what a rootless container's start needs of the kernel (crun, runc)."""

_PROBE_S: Final = 10.0
"""Time limit of the probe (seconds)."""

_TO_DO: Final = (
    "the unit needs dispatchd.service.d/isolation-container.conf; docs/security.md"
)

_DIGITS: Final = 24
"""Length of the unique part of a container's name (hexadecimal digits)."""


@define
class Podman:
    """Containers of this machine, for a daemon with an environment of its own."""

    environment: Mapping[str, str]

    @property
    def program(self) -> str:
        """Podman's path, or its name where it isn't installed."""
        path = self.environment.get("PATH", os.defpath)
        return shutil.which("podman", path=path) or "podman"

    @property
    def problem(self) -> str:
        """Reason why no container can be run here; empty if no problem is known. Blocks for some milliseconds."""
        if "/" not in self.program:
            return "podman isn't installed"
        if os.geteuid() == 0 or "CONTAINER_HOST" in self.environment:
            return ""
        try:
            done = self._called(_PROBE, _PROBE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"podman can't be tried: {error}"
        if done.returncode == 0:
            return ""
        reason = _last_line(done.stderr) or f"exit code {done.returncode}"
        return f"podman doesn't work here: {reason} ({_TO_DO})"

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables of the daemon's environment that podman gets, and a folder for what it needs until the next boot.

        In a unit the folder is the unit's (RUNTIME_DIRECTORY, systemd.exec(5)): podman's default is in /tmp, which may
        last longer.
        """
        own = self.environment
        folder = own.get("RUNTIME_DIRECTORY", "").split(":")[0]
        default = {"XDG_RUNTIME_DIR": folder} if folder else {}
        return default | {name: own[name] for name in _OF_THE_CLIENT if name in own}

    @cached_property
    def _host(self) -> tuple[str, bool]:
        """Name of the runtime, and whether a container can have several users. Blocks for a second, once."""
        template = "{{.Host.OCIRuntime.Name}} {{len .Host.IDMappings.UIDMap}}"
        try:
            done = self._called(("info", "--format", template), _CALL_S)
        except (OSError, subprocess.TimeoutExpired):
            return "", True
        name, _, mapped = done.stdout.decode(errors="replace").strip().partition(" ")
        return name, mapped != "1"

    def _called(
        self, arguments: Iterable[str], within_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.program, *arguments],
            stdin=DEVNULL,
            capture_output=True,
            env=self.client_environment,
            check=False,
            timeout=within_s,
        )

    def command(
        self, launch: Launch, env: Mapping[str, str], openings: Iterable[Rule]
    ) -> tuple[str, ...]:
        """Return the argument vector that runs a launch's command in a container. May block for a second, once.

        Args:
            launch: The launch whose command is run.
            env: The command's whole environment; its values are passed in the client's, not in the arguments.
            openings: Rules for everything on the machine that it may reach.

        Raises:
            SpawnFailed: A secret has the name of a variable that podman itself reads.
        """
        ours = {
            name for name, value in launch.base_env.items() if env.get(name) == value
        }
        return (
            # Its warnings, such as of a missing session of systemd, are no output of the run.
            *(self.program, "--log-level=error", "run"),
            *("--rm", "--name", name_of(launch.folder)),
            *("--init", "--pull=never", "--log-driver=none", "--read-only"),
            *("--cap-drop=all", "--security-opt=no-new-privileges"),
            *(["--network=none"] if launch.network is Network.NONE else []),
            *(self._users() if os.geteuid() != 0 else []),
            *self._limits(launch),
            *_mounts(openings),
            f"--mount={_fields('type=bind', f'src={launch.temporary}', 'dst=/tmp')}",
            *("--workdir", str(launch.workspace)),
            *_variables(launch, {name: env[name] for name in env if name not in ours}),
            *("--entrypoint", json.dumps([launch.command[0]])),
            *(launch.image, *launch.command[1:]),
        )

    def _users(self) -> Iterator[str]:
        _, has_several = self._host
        if has_several:
            yield "--userns=keep-id"
        else:
            # Without subordinate ids the container's root is the daemon's user, and there is nobody else.
            yield from ("--userns=host", "--user=0:0")

    def _limits(self, launch: Launch) -> Iterator[str]:
        runtime, _ = self._host
        if runtime == "crun":
            # Only crun can leave control groups unchanged (podman-run(1)).
            yield "--cgroups=disabled"
        elif os.geteuid() == 0:
            limits = launch.resources
            yield f"--pids-limit={limits.pids or -1}"
            if limits.memory_bytes:
                yield f"--memory={limits.memory_bytes}b"

    async def fetch(self, image: str, policy: PullPolicy) -> None:
        """Fetch an image as its policy says.

        Raises:
            SpawnFailed: The image isn't available.
        """
        if policy is not PullPolicy.ALWAYS:
            if await self._call("image", "exists", image, within_s=_CALL_S) == "":
                return
            if policy is PullPolicy.NEVER:
                reason = f'this machine has no image {image} (pull = "never")'
                raise SpawnFailed(command=self.program, reason=reason, refused=True)
        failed = await self._call("pull", "--quiet", image, within_s=_PULL_S)
        if failed:
            reason = f"the image {image} can't be pulled: {failed}"
            raise SpawnFailed(command=self.program, reason=reason)

    def note(self, folder: Path) -> None:
        """Note in an attempt's folder that it has a container.

        Raises:
            SpawnFailed: The disk refuses.
        """
        try:
            (folder / _NOTE).write_text(name_of(folder))
        except OSError as error:
            reason = f"the disk refuses a note of its container: {error.strerror}"
            raise SpawnFailed(command=self.program, reason=reason) from error

    def is_noted(self, folder: Path) -> bool:
        """Return whether an attempt may have a container."""
        return os.path.lexists(folder / _NOTE)

    async def remove(self, folder: Path) -> None:
        """Remove the container of an attempt with all its processes; a missing one is fine."""
        remove = ("rm", "--force", "--time=0", "--ignore", name_of(folder))
        failed = ""
        for _ in range(_TRIES):
            # Podman may still be busy with the end of killed processes.
            failed = await self._call(*remove, within_s=_CALL_S)
            exists = await self._call(
                "container", "exists", remove[-1], within_s=_CALL_S
            )
            if not failed and exists:
                return
        structlog.get_logger().warning(
            "container_left", name=remove[-1], reason=failed or "it is still there"
        )

    async def _call(self, *arguments: str, within_s: float) -> str:
        """Return the reason why a call of podman failed, which is its last message; empty if it succeeded."""
        try:
            with anyio.fail_after(within_s):
                done = await anyio.run_process(
                    [self.program, *arguments],
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    check=False,
                    env=self.client_environment,
                    start_new_session=True,
                )
        except TimeoutError:
            return f"it took more than {duration(within_s)}"
        except OSError as error:
            return error.strerror or str(error)
        if done.returncode == 0:
            return ""
        return _last_line(done.stderr) or "it gave no reason"


def _last_line(said: bytes) -> str:
    """Return the last line of a program's messages; empty if there is none."""
    lines = said.decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "")


def name_of(folder: Path) -> str:
    """Return the name of an attempt's container; it follows from the attempt's folder."""
    return f"dispatchd-{sha256(os.fsencode(folder)).hexdigest()[:_DIGITS]}"


def client_only(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that podman itself would read."""
    return {name: value for name, value in env.items() if name not in _OF_THE_CLIENT}


def _variables(launch: Launch, env: Mapping[str, str]) -> Iterator[str]:
    secret = {*launch.secrets, *launch.given}
    for name, value in sorted(env.items()):
        if name not in _OF_THE_CLIENT:
            yield f"--env={name}"
        elif name in secret:
            reason = f"a secret can't be the variable {name}, which podman heeds itself"
            raise SpawnFailed(command=launch.command[0], reason=reason, refused=True)
        else:
            yield f"--env={name}={value}"


def _mounts(openings: Iterable[Rule]) -> Iterator[str]:
    for rule in openings:
        # A missing path is left out, as in other isolations. A container has terminals of its own.
        if rule.path != _TERMINALS and os.path.lexists(rule.path):
            changes = bool(rule.access & Access.WRITE_FILE)
            fields = ("type=bind", f"src={rule.path}", f"dst={rule.path}")
            yield f"--mount={_fields(*fields, *([] if changes else ['ro=true']))}"


def _fields(*fields: str) -> str:
    """Return a line of comma-separated values, as podman reads mounts (encoding/csv of Go)."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
