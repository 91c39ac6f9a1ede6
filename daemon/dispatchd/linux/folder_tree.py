"""Folders that a run has left: removed and made durable whatever their content, and however deep they are nested.

The removal doesn't recurse, holds no descriptor for each level, and builds no path of each level. Python's recursion
limit, the limit of descriptors and PATH_MAX (4,096 bytes, path_resolution(7)) are all exceeded at a depth that a run
reaches in a second.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOTEMPTY
from pathlib import Path
from typing import Final

from attrs import define, field

_OWN: Final = 0o700
"""Mode in which a folder's owner may change its entries."""

_UNIQUE_BYTES: Final = 8
"""Random part of a name (bytes)."""

_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@define
class Leftovers:
    """Entries of a tree that can't be removed: their number, and the error of the first one, with its path."""

    count: int = 0
    first: OSError | None = None

    def add(self, folder: Path, name: str, error: OSError) -> None:
        """Add an entry of a folder that stays."""
        self.count += 1
        if self.first is None:
            text = error.strerror or str(error)
            self.first = OSError(error.errno or 0, text, str(folder / name))


@define
class _Removal:
    """Removal of the content of one folder, by its descriptor and its path."""

    top: int
    path: Path
    left: Leftovers
    pending: list[str] = field(factory=list, init=False)
    """Folders in the top that are still to be emptied, by name."""

    def run(self) -> None:
        self._empty(self.top, self.path)
        while self.pending:
            name = self.pending.pop()
            try:
                with _opened(name, self.top) as folder:
                    self._empty(folder, self.path / name)
                os.rmdir(name, dir_fd=self.top)
            except OSError as error:
                # A folder that isn't empty has been counted by the entries that are still in it.
                if error.errno != ENOTEMPTY or not self.left.count:
                    self.left.add(self.path, name, error)

    def _empty(self, folder: int, path: Path) -> None:
        with os.scandir(folder) as entries:
            listing = [
                (entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries
            ]
        for name, is_folder in listing:
            try:
                if not is_folder:
                    os.unlink(name, dir_fd=folder)
                elif folder == self.top:
                    self.pending.append(name)
                else:
                    self.pending.append(self._moved_up(name, folder))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._remove_empty(name, folder, path, error)

    def _moved_up(self, name: str, folder: int) -> str:
        """Move a folder into the top, so that its depth doesn't matter. Return its name there.

        Raises:
            PermissionError: It is another user's.
        """
        new = os.urandom(_UNIQUE_BYTES).hex()
        try:
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=self.top)
        except PermissionError as error:
            # A folder that its owner has made read-only can't change its parent (rename(2), EACCES).
            try:
                _make_writable(name, folder)
            except OSError:
                raise error from None
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=self.top)
        return new

    def _remove_empty(self, name: str, folder: int, path: Path, why: OSError) -> None:
        """Remove an empty folder that can't be moved, such as another user's. Otherwise add it to the leftovers."""
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError:
            self.left.add(path, name, why)


def remove_tree(path: Path) -> Leftovers:
    """Remove a folder, if it exists, with everything in it that can be removed. Return the rest. Blocks.

    Something else in its place, such as a link or a pipe, is removed as well. Follows no link. A folder of this user is
    made writable first. An entry that can't be removed, such as a file of another user or an immutable one, stops nothing else.
    """
    left = Leftovers()
    try:
        try:
            with _opened(str(path), None) as top:
                _Removal(top, path, left).run()
        except NotADirectoryError:
            path.unlink()
        else:
            path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if not left.count:
            left.add(path.parent, path.name, error)
    return left


def sync_tree(path: Path) -> None:
    """Make a folder durable with everything in it, without following links. Blocks.

    A file that this user may not read is left to the kernel.

    Raises:
        OSError: A part of it may be gone after a power cut.
    """
    pending = [path]
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(folder / entry.name)
                elif entry.is_file(follow_symlinks=False):
                    with suppress(PermissionError):
                        _sync(folder / entry.name)
        _sync(folder)


def _sync(path: Path) -> None:
    # Should a pipe take a file's place, nobody waits for its other end.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    """Yield the descriptor of a folder whose entries its owner may change."""
    try:
        folder = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=parent)
    except PermissionError:
        _make_writable(name, parent)
        folder = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=parent)
    try:
        if stat.S_IMODE(os.fstat(folder).st_mode) & _OWN != _OWN:
            # It is another user's; the attempts show what can be removed from it.
            with suppress(PermissionError):
                os.fchmod(folder, _OWN)
        yield folder
    finally:
        os.close(folder)


def _make_writable(name: str, parent: int | None) -> None:
    # A descriptor that needs no permission, and that can't be replaced by a link (open(2), O_PATH).
    folder = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{folder}").chmod(_OWN)
    finally:
        os.close(folder)
