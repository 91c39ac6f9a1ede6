"""Bubblewrap: a command line that runs a command in namespaces of its own, with a restricted view of the machine.

Facts from bwrap(1). When the first process of a run ends, the kernel ends all the others (pid_namespaces(7)).
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dispatchd.agent.domain.isolation import Network
from dispatchd.agent.domain.launch import Launch
from dispatchd.linux.landlock import Access, Rule

_NAMESPACES: Final = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    "--unshare-cgroup-try",
)

_LINKS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into /usr on a machine with one folder of programs (file-hierarchy(7))."""

_FRESH: Final = (Path("/proc"), Path("/dev"), Path("/dev/pts"))
"""Fresh mounts: they show only the run's own processes, devices and terminals."""

_POLITE: Final = "--default-signal=HUP,INT,QUIT,TERM"
"""Option for env(1): bwrap has to ignore signals to the group, or it would end before its command."""

_PROBE_S: Final = 2.0
"""Time limit of the probe (seconds)."""

_TO_DO: Final = (
    "the unit needs dispatchd.service.d/isolation-bubblewrap.conf; docs/security.md"
)


def bubblewrapped(
    launch: Launch, openings: Iterable[Rule], search_path: str
) -> tuple[str, ...]:
    """Return the argument vector that runs a launch's command behind bubblewrap.

    Args:
        launch: The launch whose command is run.
        openings: Rules for everything that it may reach, as for a wall.
        search_path: Folders in which bwrap and env are searched.
    """
    return (
        _program("bwrap", search_path),
        *_NAMESPACES,
        *(["--unshare-net"] if launch.network is Network.NONE else []),
        *("--cap-drop", "ALL", "--die-with-parent"),
        *_links(),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--bind", str(launch.temporary), "/tmp"),  # noqa: S108  # a folder of the run's own
        *("--bind", str(launch.temporary), "/var/tmp"),  # noqa: S108  # likewise
        *_mounts(openings),
        *("--remount-ro", "/", "--chdir", str(launch.workspace), "--"),
        *(_program("env", search_path), _POLITE),
        *launch.command,
    )


def problem(search_path: str) -> str:
    """Return the reason why bubblewrap can't be used on this machine, or "". Blocks for some milliseconds."""
    bwrap = shutil.which("bwrap", path=search_path)
    if bwrap is None:
        return "bubblewrap isn't installed (bwrap)"
    probe = (
        *(bwrap, *_NAMESPACES, "--cap-drop", "ALL", "--ro-bind", "/", "/"),
        *("--proc", "/proc", "--dev", "/dev", "--"),
        *(_program("env", search_path), _POLITE, "true"),
    )
    try:
        done = subprocess.run(
            probe,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": search_path},
            check=False,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap can't be tried: {error}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").splitlines()
    reason = lines[-1] if lines else f"exit code {done.returncode}"
    return f"bubblewrap doesn't work here: {reason} ({_TO_DO})"


def _program(name: str, search_path: str) -> str:
    return shutil.which(name, path=search_path) or name


def _links() -> Iterator[str]:
    for path in _LINKS:
        if os.path.islink(path):  # noqa: PTH114  # as it is named
            yield from ("--symlink", os.readlink(path), path)  # noqa: PTH115  # likewise


def _mounts(openings: Iterable[Rule]) -> Iterator[str]:
    """Yield the options that mount the openings; a path below another one comes after it."""
    for rule in sorted(openings, key=lambda opening: len(Path(opening.path).parts)):
        path = Path(rule.path)
        if path in _FRESH:
            continue
        changes = bool(rule.access & Access.WRITE_FILE)
        if path.is_relative_to("/dev"):
            if changes:
                yield from ("--dev-bind-try", rule.path, rule.path)
        else:
            kind = "--bind-try" if changes else "--ro-bind-try"
            yield from (kind, rule.path, rule.path)
