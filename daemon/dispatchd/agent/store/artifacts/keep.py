"""Artifacts of a workspace that is about to be removed: found, and kept beside it. A run has written everything in it.

The kernel resolves each path once. What it leads to is opened below the workspace without following links (`find.py`),
and the folders for it are opened one below the other, so that no link of a run leads out of either.
"""

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from errno import ETIMEDOUT
from pathlib import Path
from typing import BinaryIO, Final

from attrs import define, field

from dispatchd.agent.store.artifacts.find import MOST_PATHS, Search

_LONGEST_S: Final = 60.0
"""Longest time for all artifacts of a workspace (seconds)."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN: Final = 0o700
_PIECE: Final = 1 << 20
"""Part of a file that is copied at a time (bytes)."""


def real_path(workspace: Path, artifact: str) -> str | None:
    """Return the path of an artifact without links, relative to its workspace. Blocks.

    It is None for an artifact that is missing or leads out of the workspace. The kernel follows at most 40 links
    (path_resolution(7)).
    """
    if Path(artifact).is_absolute() or ".." in Path(artifact).parts:
        return None
    try:
        inside = _place(workspace)
        place = _place(workspace / artifact)
    except (OSError, ValueError):
        return None
    if place == inside or not place.is_relative_to(inside):
        return None
    return str(place.relative_to(inside))


def keep(
    workspace: Path, kept: Path, artifacts: Iterable[str]
) -> list[tuple[str, str]]:
    """Keep files and folders of a workspace, by their paths without links. Blocks.

    They get hard links where the file system and the kernel allow that, else they are copied. Links stay links.
    Pipes and devices in a folder are left out.

    Args:
        workspace: The workspace.
        kept: A folder in which no run can write; it is made.
        artifacts: Relative paths.

    Returns:
        Those that can't be kept whole, each with the reason.

    Raises:
        OSError: The folder can't be made.
    """
    real = {path: real_path(workspace, path) for path in dict.fromkeys(artifacts)}
    problems: dict[str | None, str] = {None: "it is missing, or leads out"}
    roots = _outermost(path for path in real.values() if path is not None)
    kept.mkdir(mode=_OWN, parents=True, exist_ok=True)
    until = time.monotonic() + _LONGEST_S  # of this one action, by the real time
    for number, root in enumerate(dict.fromkeys(roots.values())):
        if number < MOST_PATHS:
            problems[root] = _Copy(workspace, kept, until).problem_with(root)
        else:
            problems[root] = f"more than {MOST_PATHS} are named"
    reasons = {
        path: problems[None if place is None else roots[place]]
        for path, place in real.items()
    }
    return [(path, reason) for path, reason in reasons.items() if reason]


def _place(path: Path) -> Path:
    # It opens neither a pipe nor a device (open(2), O_PATH).
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


def _outermost(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path the outermost one of them that it is below, or itself."""
    found: dict[str, str] = {}
    root = Path("/")
    for path in sorted(map(Path, set(paths)), key=lambda each: each.parts):
        if not path.is_relative_to(root):
            root = path
        found[str(path)] = str(root)
    return found


@define
class _Copy:
    """Copy of one file or folder of a workspace."""

    _workspace: Path
    _kept: Path
    _until: float
    """Time by which it has to be complete, on the monotonic clock."""
    _problem: str = field(default="", init=False)

    def problem_with(self, path: str) -> str:
        """Make it, and return the reason why it isn't complete; empty if it is."""
        search = Search(
            workspace=self._workspace, take=self._take, is_over=self._is_over
        )
        search.run([path], ())
        if self._is_over():
            return f"it takes longer than {_LONGEST_S:g} s"
        if not self._problem and not os.path.lexists(self._kept / path):
            self._put_empty(path)
        return self._problem or "; ".join(search.problems)

    def _put_empty(self, path: str) -> None:
        """Make a folder in which the search has found nothing."""
        if not (self._workspace / path).is_dir():
            self._problem = "it is neither a file nor a folder"
            return
        try:
            os.close(self._opened(path.split("/")))
        except OSError as error:
            self._problem = f"{path}: {error.strerror or error}"

    def _is_over(self) -> bool:
        return time.monotonic() > self._until  # likewise

    def _take(self, path: str, entry: int) -> None:
        *folders, name = path.split("/")
        try:
            folder = self._opened(folders)
            try:
                self._put(entry, name, folder)
            finally:
                os.close(folder)
        except FileExistsError:
            # It was named twice.
            pass
        except OSError as error:
            self._problem = self._problem or f"{path}: {error.strerror or error}"

    def _opened(self, names: Iterable[str]) -> int:
        """Return the descriptor of a folder below the kept ones, which is made where it is missing.

        Raises:
            OSError: It can't be made, or a link is in its way.
        """
        folder = os.open(self._kept, _FOLDER)
        for name in names:
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, _OWN, dir_fd=folder)
                below = os.open(name, _FOLDER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = below
        return folder

    def _put(self, entry: int, name: str, folder: int) -> None:
        """Give an open entry (open(2), O_PATH) a name in a folder.

        Raises:
            OSError: That is impossible.
        """
        mode = os.fstat(entry).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink("", dir_fd=entry), name, dir_fd=folder)
        elif stat.S_ISREG(mode):
            source = f"/proc/self/fd/{entry}"
            try:
                os.link(source, name, dst_dir_fd=folder)
            except OSError:
                # Of another user (fs.protected_hardlinks), with too many names, or on another file system.
                self._copy(source, name, folder, stat.S_IMODE(mode))

    def _copy(self, source: str, name: str, folder: int, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        # A file that somebody has leased would hold the open(2) up (fcntl(2), F_SETLEASE).
        read = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(source, read), "rb") as old:
            fd = os.open(name, flags, mode & 0o777, dir_fd=folder)
            try:
                with os.fdopen(fd, "wb") as new:
                    self._fill(new, old)
            except OSError:
                # A part of a file would be taken for all of it.
                os.unlink(name, dir_fd=folder)
                raise

    def _fill(self, new: BinaryIO, old: BinaryIO) -> None:
        """Copy a file's content.

        Raises:
            TimeoutError: It takes too long.
        """
        for piece in iter(lambda: old.read(_PIECE), b""):
            if self._is_over():
                raise TimeoutError(ETIMEDOUT, os.strerror(ETIMEDOUT))
            new.write(piece)
