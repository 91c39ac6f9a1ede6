"""Openings in the wall of a run: a list of everything that it may reach. All else on the machine is denied.

Landlock only knows openings: nothing in an opened folder can be closed again. So a folder with a hidden path
below it is opened child by child, along the way to the hidden path.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid
from typing import Final, Self

import structlog
from attrs import field, frozen

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.linux.landlock import DEVICE, READ, WRITE, Able, Access, Rule, able
from dispatchd.linux.seccomp import program

_SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc"),
    *("/proc", "/sys", "/nix", "/gnu/store", "/snap", "/run/current-system"),
    # Files of name resolution (nss-systemd(8)), and targets of its links.
    *("/run/systemd/resolve", "/run/systemd/userdb", "/run/userdb", "/run/nscd"),
    *("/run/resolvconf", "/run/NetworkManager", "/run/netconfig", "/etc/resolv.conf"),
    # Lists of packages, and data of installed programs that lies outside of /usr.
    *("/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/var/lib/rpm"),
    *("/var/lib/pacman", "/var/lib/alternatives", "/var/lib/ca-certificates"),
    *("/var/cache/fontconfig", "/var/lib/texmf", "/var/lib/gems", "/var/lib/ghc"),
    *("/var/lib/aspell", "/var/lib/dictionaries-common", "/var/lib/sgml-base"),
)
"""Programs of the machine, files that they read, and files of the kernel (file-hierarchy(7))."""

_DEVICES: Final = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/dev/tty", "/dev/ptmx"),
)
"""Without /dev/pts: there are the terminals of other runs, and of whoever has logged in as the daemon's user."""

_OF_DEVICES: Final = [
    Rule(device, int(DEVICE | Access.READ_DIR)) for device in _DEVICES
]
_READ, _WRITE, _DEVICE = int(READ), int(WRITE), int(DEVICE)
"""As plain numbers: arithmetic of flags is slow, and needed at each start."""

_SUBFOLDERS: Final = ("lib", "lib64", "libexec")
"""Folders beside a folder of programs that mark an installation, which is opened as a whole."""

_NO_INSTALLATIONS: Final = (".local", ".cargo")
"""Folders that look like an installation, but hold private files of people beside the programs."""

_SOCKETS: Final = (
    *("docker.sock", "podman/podman.sock", "containerd/containerd.sock"),
    *("crio/crio.sock", "buildkit/buildkitd.sock", "libvirt/libvirt-sock"),
    *("systemd/private", "bus"),
)
"""Sockets of container engines and user managers, in /run or in a user's part of it: a process that can write there can
start others without a wall."""

_SOCKETS_ELSEWHERE: Final = (
    *("/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket"),
    *("/var/snap/lxd/common/lxd/unix.socket", "/tmp/tmux-{uid}/default"),  # noqa: S108  # of tmux(1)
)

_MOST_NAMES: Final = 4096
"""Most names on the way to a path that are looked at (count): as many as a path has characters (PATH_MAX)."""

_NAME_A_SOCKET: Final = ("DOCKER_HOST", "CONTAINER_HOST", "DBUS_SESSION_BUS_ADDRESS")
"""Variables with the address of such a socket; its path follows the scheme."""


def _real(path: Path) -> Path:
    # As `resolve`, in a third of the time.
    return Path(os.path.realpath(path))


def _all_real(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(_real(path) for path in paths)


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
    ways_out: tuple[str, ...]
    """Sockets that lead out of a sandbox, if this user can write to one."""
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
            programs=tuple(
                _programs(environment.get("PATH", ""), tuple(_homes(environment)))
            ),
            uid=os.geteuid(),
            ways_out=tuple(_ways_out(environment, os.geteuid())),
        )

    @property
    def description(self) -> str:
        """Meaning of `sandbox` on this machine, in words."""
        if not self.kernel.abi:
            return "none: this kernel has no Landlock (Linux 5.13), or it is turned off"
        parts = [f"Landlock {self.kernel.abi}"]
        if self.has_filter:
            parts.append("seccomp")
        open_ends = [f"open: {gap}" for gap in self.kernel.gaps]
        return f"sandbox ({', '.join([*parts, *open_ends])})"

    @property
    def weakness(self) -> str:
        """Reason why the sandbox doesn't protect the rest of this machine, in words; empty if it does."""
        if not self.kernel.abi:
            return "this machine's kernel has no Landlock, so nothing isolates runs"
        if self.uid == 0:
            return "this machine's dispatchd runs as root, whom no sandbox holds"
        for socket in self.ways_out:
            if os.access(socket, os.W_OK):
                return f"this machine's dispatchd can write to {socket}, which leads out of a sandbox"
        return ""

    def rules(self, launch: Launch) -> list[Rule] | None:
        """Return the openings for a launch, or None where no wall is wanted, or none can be built. Blocks."""
        if launch.isolation is not Isolation.SANDBOX or not self.kernel.abi:
            return None
        return [
            *_OF_DEVICES,
            *self.openings(launch),
            Rule(str(launch.output_file), _DEVICE),
        ]

    def openings(self, launch: Launch) -> list[Rule]:
        """Return the openings for a launch: the machine's programs, its own files, the owner's additions. Blocks."""
        machine = self._machine(launch.hidden_paths)
        return [
            *machine,
            *self._program(launch, machine),
            *self.own_openings(launch),
        ]

    def own_openings(self, launch: Launch) -> list[Rule]:
        """Return the openings for a launch's own files, and the owner's additions. Blocks."""
        return [
            *self._added(launch.read_paths, launch, _READ),
            *self._added(launch.write_paths, launch, _WRITE),
            *(Rule(str(path), _READ) for path in launch.inputs),
            Rule(str(launch.workspace), _WRITE),
            Rule(str(launch.files), _WRITE),
            *([Rule(str(launch.home), _WRITE)] if launch.home is not None else []),
        ]

    def _machine(self, secret: tuple[str, ...]) -> list[Rule]:
        """Return the rules that are the same for all runs. They are computed again where folders have to be read."""
        known = self._known.get(secret)
        if known is not None:
            return known
        hidden = (*self.hidden, *_all_real(map(Path, secret)))
        folders = _outermost(_all_real((*map(Path, _SYSTEM), *self.programs)))
        rules = [*_opened(folders, hidden, _READ)]
        if not any(
            path.is_relative_to(folder) for path in hidden for folder in folders
        ):
            self._known[secret] = rules
        return rules

    def _program(self, launch: Launch, machine: list[Rule]) -> Iterator[Rule]:
        """Yield the rules for a launch's program, unless it lies in a folder that is open for all runs."""
        for path in _trusted([launch.command[0]], launch):
            if not any(str(path).startswith(f"{rule.path}/") for rule in machine):
                hidden = (*self.hidden, *_all_real(map(Path, launch.hidden_paths)))
                yield from _opened([path], hidden, _READ)

    def _added(
        self, paths: Iterable[str], launch: Launch, access: int
    ) -> Iterator[Rule]:
        """Yield the rules for the owner's additions: a secret only for its own path, the daemon's folders never."""
        trusted = [*_trusted(paths, launch)]
        hidden = _all_real(map(Path, launch.hidden_paths)) if trusted else ()
        for path in trusted:
            others = tuple(file for file in hidden if file != path)
            yield from _opened([path], (*self.hidden, *others), access)


def _trusted(paths: Iterable[str], launch: Launch) -> Iterator[Path]:
    """Yield the real paths, but for those that lead through a link which a run may have made."""
    for path in map(Path, paths):
        real = _real(path)
        links = [*_links_on(path)] if real != path and launch.writable_paths else ()
        writable = _all_real(map(Path, launch.writable_paths)) if links else ()
        if any(folder in link.parents for link in links for folder in writable):
            structlog.get_logger().warning("link_not_followed", path=str(path))
        else:
            yield real


def _links_on(path: Path) -> Iterator[Path]:
    """Yield the links that an absolute path leads through, each by its real place."""
    here, names = Path(path.anchor), list(reversed(path.parts[1:]))
    for _ in range(_MOST_NAMES):
        if not names:
            break
        name = names.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            target = (here / name).readlink()
        except OSError:
            here /= name
            continue
        yield here / name
        if target.is_absolute():
            here = Path(target.anchor)
            target = target.relative_to(target.anchor)
        names.extend(reversed(target.parts))


def _homes(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the home folders of the daemon's user, which are no installations."""
    if environment.get("HOME"):
        yield _real(Path(environment["HOME"]))
    with suppress(KeyError):
        yield _real(Path(getpwuid(os.geteuid()).pw_dir))


def _ways_out(environment: Mapping[str, str], uid: int) -> Iterator[str]:
    """Yield the paths of sockets through which a user may start processes without a wall."""
    own = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    for folder in dict.fromkeys(("/run", own, f"/run/user/{uid}")):
        yield from (f"{folder}/{name}" for name in _SOCKETS)
    yield from (template.format(uid=uid) for template in _SOCKETS_ELSEWHERE)
    for name in _NAME_A_SOCKET:
        kind, _, rest = environment.get(name, "").partition(":")
        if kind == "unix":
            yield rest.removeprefix("path=").removeprefix("//").partition(",")[0]


def _programs(search_path: str, homes: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the installations and folders of programs on a search path, and the daemon's interpreter."""

    def has_a_home(folder: Path) -> bool:
        return any(home.is_relative_to(folder) for home in homes)

    for prefix in {_real(Path(sys.prefix)), _real(Path(sys.base_prefix))}:
        parts = (prefix / name for name in ("bin", *_SUBFOLDERS))
        yield from parts if has_a_home(prefix) else [prefix]
    for entry in dict.fromkeys(filter(None, search_path.split(os.pathsep))):
        folder = _real(Path(entry))
        if any(folder.is_relative_to(system) for system in _SYSTEM):
            continue
        above = folder.parent
        is_installation = (
            above.name not in _NO_INSTALLATIONS
            and len(above.parts) > 2  # noqa: PLR2004  # no folder of the root
            and not has_a_home(above)
            and any(_is_folder(above / name) for name in _SUBFOLDERS)
        )
        if is_installation:
            yield above
        elif not has_a_home(folder):
            yield folder


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Another user's, as where PATH was kept over a change of users: runs have no use for it either.
        return False


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that aren't below another one."""
    outermost: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(above) for above in outermost):
            outermost.append(folder)
    return outermost


def _opened(
    folders: Iterable[Path], hidden: tuple[Path, ...], access: int
) -> Iterator[Rule]:
    """Yield the rules that open folders, except for hidden paths."""
    for path in folders:
        folder = _real(path)
        if any(folder.is_relative_to(secret) for secret in hidden):
            continue
        if not any(secret.is_relative_to(folder) for secret in hidden):
            yield Rule(str(folder), access, is_real=True)
        else:
            yield from _opened(_children(folder), hidden, access)


def _children(folder: Path) -> list[Path]:
    try:
        # A link leads elsewhere, and its target is opened by itself or not at all.
        return [child for child in folder.iterdir() if not child.is_symlink()]
    except OSError:
        return []
