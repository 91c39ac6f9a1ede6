"""A control group for each attempt, where systemd has handed this daemon a part of the tree (Delegate=yes).

A process can change its session, its group and its environment, but it stays in its control group. So the
group contains a run reliably. Facts from cgroups(7), the kernel's cgroup-v2.rst (cgroup.procs,
cgroup.kill, cgroup.events) and systemd.resource-control(5) (Delegate=). Elsewhere `process.members` is used.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.linux.untrusted_files import read_regular
from dispatchd.protocol.outcome import Resources, Usage

_NOTE: Final = "cgroup"
"""File in an attempt's folder with the path of its group, for a daemon that was started elsewhere."""

_PREFIX: Final = "run-"
"""Beginning of the names of the groups of attempts."""

_LONGEST_PATH: Final = 4096
"""PATH_MAX of limits.h (bytes)."""

_DELEGATED: Final = ("user.delegate", "trusted.delegate")
"""Extended attributes by which systemd marks delegated groups."""


_CONTROLLERS: Final = ("cpu", "memory", "pids")
"""Controllers that limits need, beside the kill that every group has."""

_OWN_WEIGHT: Final = "1000"
"""cpu.weight of the daemon beside its runs, which have 100 unless a workflow sets another."""


@frozen
class Cgroups:
    """Makes groups below a delegated part of the tree."""

    _root: Path
    controllers: tuple[str, ...] = ()
    """Controllers of the limits that can be set there."""
    _own: Path = Path("/")
    """The daemon's own group: the delegated part itself, or one below it."""

    @classmethod
    def find(
        cls, self_folder: Path = Path("/proc/self"), *, enable: bool = True
    ) -> Self | None:
        """Return the part that is delegated to this process, or None if there is none.

        Args:
            self_folder: The kernel's files about this process.
            enable: True to turn the controllers on; if False, those that could be turned on count.
        """
        try:
            mount = _mount(_read(self_folder / "mountinfo"))
            path = _own(_read(self_folder / "cgroup"))
        except OSError:
            return None
        if mount is None or path is None:
            return None
        own = mount / path.lstrip("/")
        # With DelegateSubgroup= the daemon is one level below.
        for root in (own, own.parent):
            if root != mount and _is_delegated(root):
                able = _enabled(root, own) if enable else _able(root, own)
                return cls(root, able, own)
        return None

    @property
    def description(self) -> str:
        """Means that keep runs together, and limits that can be set, in words."""
        able = ", ".join(self.controllers) or "none"
        return f"control groups (controllers: {able})"

    def group_of(self, folder: Path) -> "Group | None":
        """Return the group of an attempt, or None if it no longer has one. The group's name follows from the folder."""
        path = self._root / _name(folder)
        return Group(path) if (path / "cgroup.kill").exists() else None

    def strays(self) -> list["Group"]:
        """Return the groups in this part that belong neither to this daemon nor to an attempt: a run has made them."""
        own = {path.name for path in (self._own, *self._own.parents)}
        return [
            Group(path)
            for path in self._root.glob("*/")
            if path.name not in own and not path.name.startswith(_PREFIX)
        ]

    def end_strays(self) -> set[int]:
        """End the processes that runs have put into groups of their own making, and return their pids."""
        ended: set[int] = set()
        for group in self.strays():
            ended.update(group.members())
            group.kill()
            group.remove()
        return ended

    def prepare(self, folder: Path, resources: Resources) -> int:
        """Return a descriptor with which a process enters a new group for an attempt, with its limits.

        A process enters by writing 0 to it, and its children follow.

        Raises:
            OSError: The kernel refuses; the attempt then runs without a group.
        """
        group = self._root / _name(folder)
        group.mkdir(exist_ok=True)
        (folder / _NOTE).write_bytes(os.fsencode(group))
        for controller, file, limit in (
            ("memory", "memory.max", resources.memory_bytes),
            ("pids", "pids.max", resources.pids),
            ("cpu", "cpu.weight", resources.cpu_weight),
        ):
            if limit and controller in self.controllers:
                (group / file).write_text(str(limit))
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        return os.open(group / "cgroup.procs", flags, 0o600)


@frozen
class Group:
    """Control group of one attempt."""

    _path: Path

    @classmethod
    def of(cls, folder: Path, root: Path | None = None) -> Self | None:
        """Return the group of an attempt according to its note, or None if it no longer has one.

        Without isolation a command can write the note as well, so only a path in the kernel's tree is valid.

        Args:
            folder: The attempt's.
            root: Root of the kernel's groups, if it is known.
        """
        try:
            path = Path(os.fsdecode(read_regular(folder / _NOTE, _LONGEST_PATH) or b""))
        except OSError:
            return None
        root = root or tree()
        ours = root and path.name == _name(folder) and path.is_relative_to(root)
        return cls(path) if ours and (path / "cgroup.kill").exists() else None

    def members(self) -> list[int]:
        """Return the pids in the group and below it."""
        pids: list[int] = []
        for procs in (self._path / "cgroup.procs", *self._path.rglob("*/cgroup.procs")):
            try:
                pids += [int(line) for line in procs.read_text().split()]
            except OSError:
                continue
        return pids

    def usage(self) -> Usage:
        """Return the resources used so far, where the kernel counts them."""
        cpu_usec = _fields(self._path / "cpu.stat").get("usage_usec")
        peak = _text(self._path / "memory.peak").strip()
        return Usage(
            cpu_s=None if cpu_usec is None else cpu_usec / 1e6,
            peak_memory_bytes=int(peak) if peak.isdigit() else None,
            pids_refused=_fields(self._path / "pids.events").get("max", 0),
            oom_kills=_fields(self._path / "memory.events").get("oom_kill", 0),
        )

    def kill(self) -> None:
        """Kill all processes in it, including those that they fork meanwhile (cgroup.kill)."""
        try:
            (self._path / "cgroup.kill").write_text("1")
        except OSError:
            return

    def remove(self) -> None:
        """Remove the group; one that isn't empty yet stays."""
        try:
            for folder in sorted(self._path.rglob("*/"), reverse=True):
                folder.rmdir()
            self._path.rmdir()
        except OSError:
            return


def _enabled(root: Path, own: Path) -> tuple[str, ...]:
    """Turn the controllers on for the groups of runs, and return those that are on.

    Only from a group below (DelegateSubgroup=): the kernel doesn't let a group with controllers for others
    have processes of its own, and systemd would fail to restart a daemon that had turned them on.
    """
    if own == root:
        return ()
    for controller in _CONTROLLERS:
        with suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
    enabled = _text(root / "cgroup.subtree_control").split()
    with suppress(OSError):
        if "cpu" in enabled:
            (own / "cpu.weight").write_text(_OWN_WEIGHT)
    return tuple(controller for controller in _CONTROLLERS if controller in enabled)


def _able(root: Path, own: Path) -> tuple[str, ...]:
    """Return the controllers that could be turned on for the groups of runs."""
    able = _text(root / "cgroup.controllers").split() if own != root else []
    return tuple(controller for controller in _CONTROLLERS if controller in able)


def _fields(file: Path) -> dict[str, int]:
    """Return the numbers of a file of `name number` lines, or nothing if it doesn't exist."""
    pairs = (line.split() for line in _text(file).splitlines())
    return {
        pair[0]: int(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[1].isdigit()  # noqa: PLR2004
    }


def _read(file: Path) -> str:
    """Return the text of one of the kernel's files, in which names have any bytes."""
    return os.fsdecode(file.read_bytes())


def _text(file: Path) -> str:
    try:
        return _read(file)
    except OSError:
        return ""


def _name(folder: Path) -> str:
    return _PREFIX + sha256(os.fsencode(folder)).hexdigest()[:24]


def _mount(mountinfo: str) -> Path | None:
    """Return where the cgroup2 file system is mounted (proc_pid_mountinfo(5))."""
    for line in mountinfo.split("\n"):
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def tree() -> Path | None:
    """Return the root of the kernel's control groups, or None where there are none."""
    try:
        return _mount(_read(Path("/proc/self/mountinfo")))
    except OSError:
        return None


def _own(cgroup: str) -> str | None:
    """Return this process's path in the version 2 hierarchy (cgroups(7), /proc/pid/cgroup)."""
    return next(
        (line[3:] for line in cgroup.split("\n") if line.startswith("0::")), None
    )


def _is_delegated(path: Path) -> bool:
    for name in _DELEGATED:
        try:
            if os.getxattr(path, name) == b"1":
                return os.access(path, os.W_OK)
        except OSError:
            continue
    return False
