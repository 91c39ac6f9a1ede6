"""Openings in the wall of a run: a list of everything that it may reach. All else on the machine is denied.

Landlock only knows openings: nothing in an opened folder can be closed again. So a folder with a hidden path
below it is opened child by child, along the way to the hidden path.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from attrs import field, frozen

from dispatchd.domain.isolation import Isolation
from dispatchd.domain.launch import Launch
from dispatchd.process.landlock import DEVICE, READ, WRITE, Able, Access, Rule, able
from dispatchd.process.seccomp import program

_SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc"),
    *("/proc", "/sys", "/nix", "/gnu/store", "/snap", "/run/current-system"),
    # Targets of the links that name resolution reads.
    *("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd"),
    *(
        "/var/cache/fontconfig",
        "/var/lib/ca-certificates",
        "/var/lib/dpkg",
        "/var/lib/rpm",
    ),
)
"""Programs of the machine, files that they read, and files of the kernel (file-hierarchy(7))."""

_DEVICES: Final = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/dev/tty", "/dev/ptmx", "/dev/pts"),
)

_SUBFOLDERS: Final = ("lib", "lib64", "libexec")
"""Folders beside a folder of programs that mark an installation, which is opened as a whole."""

_NO_INSTALLATIONS: Final = (".local", ".cargo")
"""Folders that look like an installation, but hold private files of people beside the programs."""

_ENGINE_SOCKETS: Final = (
    *("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock"),
    *("/run/user/{uid}/docker.sock", "/run/user/{uid}/podman/podman.sock"),
    *("/run/user/{uid}/systemd/private", "/run/user/{uid}/bus"),
)
"""Sockets of container engines and user managers: a process that can write there can start others without a wall."""


def _real(path: Path) -> Path:
    # As `resolve`, in a third of the time.
    return Path(os.path.realpath(path))


def _all_real(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(_real(each) for each in paths)


@frozen(kw_only=True)
class Walls:
    """Walls that this machine can build, and the paths that each of them hides."""

    kernel: Able
    has_filter: bool
    hidden: tuple[Path, ...] = field(converter=_all_real)
    """The daemon's folders; they may not exist yet."""
    programs: tuple[Path, ...]
    """Folders of programs that aren't the system's."""
    uid: int
    _known: dict[tuple[str, ...], list[Rule]] = field(factory=dict, init=False)
    """Openings for all runs, by the files with secrets."""

    @classmethod
    def here(cls, environment: Mapping[str, str], folders: Iterable[Path]) -> Self:
        """Return the walls of this machine, for a daemon with an environment and folders of its own."""
        credentials = environment.get("CREDENTIALS_DIRECTORY", "")
        return cls(
            kernel=able(),
            has_filter=bool(program(os.uname().machine)),
            hidden=(*folders, *([Path(credentials)] if credentials else [])),
            programs=tuple(_programs(environment.get("PATH", ""))),
            uid=os.geteuid(),
        )

    @property
    def words(self) -> str:
        """Meaning of `sandbox` on this machine, in words."""
        if not self.kernel.abi:
            return "none: this kernel has no Landlock (Linux 5.13), or it is turned off"
        parts = [f"Landlock {self.kernel.abi}"]
        if self.has_filter:
            parts.append("seccomp")
        open_ends = [f"open: {each}" for each in self.kernel.gaps]
        return f"sandbox ({', '.join([*parts, *open_ends])})"

    @property
    def weakness(self) -> str:
        """Reason why the sandbox doesn't protect the rest of this machine, in words; empty if it does."""
        if not self.kernel.abi:
            return "this machine's kernel has no Landlock, so nothing isolates runs"
        if self.uid == 0:
            return "this machine's dispatchd runs as root, whom no sandbox holds"
        for pattern in _ENGINE_SOCKETS:
            socket = pattern.format(uid=self.uid)
            if os.access(socket, os.W_OK):
                return f"this machine's dispatchd can write to {socket}, which leads out of a sandbox"
        return ""

    def rules(self, launch: Launch) -> list[Rule] | None:
        """Return the openings for a launch, or None where no wall is wanted, or none can be built. Blocks."""
        if launch.isolation is not Isolation.SANDBOX or not self.kernel.abi:
            return None
        return [
            *(Rule(each, int(DEVICE | Access.READ_DIR)) for each in _DEVICES),
            *self.openings(launch),
            Rule(str(launch.output_file), int(DEVICE)),
        ]

    def openings(self, launch: Launch) -> list[Rule]:
        """Return the openings for a launch: the machine's programs, its own files, the owner's additions. Blocks."""
        return [
            *self._machine(launch.hidden_paths),
            Rule(launch.command[0], int(READ)),
            *self.own_openings(launch),
        ]

    def own_openings(self, launch: Launch) -> list[Rule]:
        """Return the openings for a launch's own files, and the owner's additions. Blocks."""
        return [
            *self._added(launch.read_paths, launch.hidden_paths, READ),
            *self._added(launch.write_paths, launch.hidden_paths, WRITE),
            *(Rule(str(each), int(READ)) for each in launch.inputs),
            Rule(str(launch.workspace), int(WRITE)),
            Rule(str(launch.files), int(WRITE)),
            *([Rule(str(launch.home), int(WRITE))] if launch.home is not None else []),
        ]

    def _machine(self, secret: tuple[str, ...]) -> list[Rule]:
        """Return the rules that are the same for all runs. They are computed again where folders have to be read."""
        known = self._known.get(secret)
        if known is not None:
            return known
        hidden = (*self.hidden, *_all_real(map(Path, secret)))
        folders = _outermost(_all_real((*map(Path, _SYSTEM), *self.programs)))
        rules = [*_opened(folders, hidden, READ)]
        if not any(
            each.is_relative_to(folder) for each in hidden for folder in folders
        ):
            self._known[secret] = rules
        return rules

    def _added(
        self, paths: Iterable[str], secret: tuple[str, ...], access: int
    ) -> Iterator[Rule]:
        """Yield the rules for the owner's additions: a secret only for its own path, the daemon's folders never."""
        for each in paths:
            named = _real(Path(each))
            hidden = _all_real(map(Path, secret))
            others = tuple(file for file in hidden if file != named)
            yield from _opened([named], (*self.hidden, *others), access)


def _programs(search_path: str) -> Iterator[Path]:
    """Yield the installations and folders of programs on a search path, and the daemon's interpreter."""
    yield from {_real(Path(sys.prefix)), _real(Path(sys.base_prefix))}
    for each in dict.fromkeys(filter(None, search_path.split(os.pathsep))):
        folder = _real(Path(each))
        if any(folder.is_relative_to(system) for system in _SYSTEM):
            continue
        above = folder.parent
        is_installation = above.name not in _NO_INSTALLATIONS and any(
            _is_folder(above / name) for name in _SUBFOLDERS
        )
        yield above if is_installation and len(above.parts) > 2 else folder  # noqa: PLR2004  # no folder of the root


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Another user's, as where PATH was kept over a change of users: runs have no use for it either.
        return False


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that aren't below another one."""
    kept: list[Path] = []
    for each in sorted(set(folders)):
        if not any(each.is_relative_to(above) for above in kept):
            kept.append(each)
    return kept


def _opened(
    folders: Iterable[Path], hidden: tuple[Path, ...], access: int
) -> Iterator[Rule]:
    """Yield the rules that open folders, except for hidden paths."""
    for each in folders:
        folder = _real(each)
        if any(folder.is_relative_to(secret) for secret in hidden):
            continue
        if not any(secret.is_relative_to(folder) for secret in hidden):
            yield Rule(str(folder), int(access))
        else:
            yield from _opened(_children(folder), hidden, access)


def _children(folder: Path) -> list[Path]:
    try:
        # A link leads elsewhere, and its target is opened by itself or not at all.
        return [each for each in folder.iterdir() if not each.is_symlink()]
    except OSError:
        return []
