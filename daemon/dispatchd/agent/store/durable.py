"""Files that are whole or absent: write aside, fsync, rename, fsync of the folder.

fsync is only as reliable as the disk: a drive that lies about its cache, or a network file system with
other rules, can lose acknowledged data. After an error from fsync the data may be lost, and a second
fsync would succeed without it (the kernel marks the pages clean). So the whole put has failed, and its
caller writes again.

The folder's fsync is shared: puts that arrive while one runs wait for the next one, together (group
commit), so that many concurrent puts cost little more than one.

A file is written under a name that no other writer has, in this process or another. `sweep` removes the files
that a crash has left; only the owner of a folder calls it.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ESTALE
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import define, field

from dispatchd.errors import FolderUnusable, PathTaken, StoreUnavailable
from dispatchd.linux.untrusted_files import is_at, what_is_at

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_ASIDE: Final = ".aside-"
"""Prefix of a file that is still being written."""

_DEFAULT_ACL: Final = "system.posix_acl_default"
"""Extended attribute with a folder's default access list (acl(5))."""

_UNIQUE_BYTES: Final = 6
"""Random part of such a name (bytes): no two writers meet, and the name stays below 255 bytes."""


def drop_default_acl(folder: Path | int) -> None:
    """Take the default access list from a folder: nothing that is made in one which denies everything can be used (acl(5)).

    Whoever can change a folder's mode can set one. Does nothing for a file, for a folder without one, for one of another
    user, and on a file system without such lists.

    Args:
        folder: Its path, which must be no link, or a descriptor, which may be one that was opened as a path (open(2),
            O_PATH).
    """
    # removexattr(2) doesn't take a descriptor that was opened as a path; its name in proc, a link, does.
    is_open = isinstance(folder, int)
    path = f"/proc/self/fd/{folder}" if is_open else folder
    with suppress(OSError):
        # There is seldom one, and a removal waits for the file system's journal all the same.
        os.getxattr(path, _DEFAULT_ACL, follow_symlinks=is_open)
        os.removexattr(path, _DEFAULT_ACL, follow_symlinks=is_open)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, for this user only, durably; an existing one stays as it is.

    Raises:
        PathTaken: Something that isn't a folder is in its place, or in that of a parent.
        FolderUnusable: It can't be created or written.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for folder in reversed(missing):
            sync_folder(folder.parent)
    except (FileExistsError, NotADirectoryError) as error:
        for folder in (path, *path.parents):
            if not folder.is_dir() and (occupant := what_is_at(folder, error)):
                do = "move it away, or name another folder"
                raise PathTaken(
                    path=folder, kind=occupant, error=error, do=do
                ) from error
        raise FolderUnusable(folder=path, error=error) from error
    except OSError as error:
        raise FolderUnusable(folder=path, error=error) from error
    except StoreUnavailable as unavailable:
        raise FolderUnusable(folder=path, error=unavailable.error) from unavailable
    if not os.access(path, os.W_OK | os.X_OK):
        raise FolderUnusable(
            folder=path, error=PermissionError(13, "no permission to write there")
        )


def sweep(folder: Path) -> None:
    """Remove half-written files that a crash has left; for the owner of a folder, before anything is written there.

    An entry that can't be removed, such as a folder of a run, is logged. It does no harm: no name is
    used twice.

    Raises:
        FolderUnusable: It can't be listed.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise FolderUnusable(folder=folder, error=error) from error
    for name in names:
        if name.startswith(_ASIDE):
            _remove_aside(folder / name)


def _remove_aside(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        structlog.get_logger().warning(
            "left_over_not_removed", path=str(path), error=error.strerror
        )


def put_file(folder: Path, name: str, data: bytes) -> None:
    """Put one file into a folder that is not kept open; see `DurableFolder.put`.

    Raises:
        StoreUnavailable: It may or may not be stored; write it again.
    """
    put_files(folder, {name: data})


def put_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put several files into a folder that is not kept open; a missing folder is created.

    Raises:
        StoreUnavailable: They may or may not be stored; write them again.
    """
    opened = _opened(folder)
    try:
        opened.put_all(files)
    finally:
        opened.close()


def remove_file(folder: Path, name: str) -> None:
    """Remove a file, durably; a missing one is fine.

    Raises:
        StoreUnavailable: It may still exist, or come back after a power cut.
    """
    opened = _opened(folder)
    try:
        opened.remove(name, durably=True)
    finally:
        opened.close()


def _opened(folder: Path) -> "DurableFolder":
    """Open a folder, which is created if it is missing.

    Raises:
        StoreUnavailable: It can't be used.
    """
    try:
        return DurableFolder(folder, os.open(folder, _FOLDER))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreUnavailable(path=folder, error=error) from error
    try:
        return DurableFolder.open(folder)
    except FolderUnusable as unusable:
        raise StoreUnavailable(path=folder, error=unusable.error) from unusable


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable, such as new folders.

    Raises:
        StoreUnavailable: They may be gone after a power cut.
    """
    try:
        fd = os.open(folder, _FOLDER)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreUnavailable(path=folder, error=error) from error


@define
class _Commit:
    """One shared fsync: all callers that joined before it began get its result."""

    ended: threading.Condition
    """Notifies them, and one of them when it is the next to begin."""
    done: bool = False
    error: OSError | None = None


@define
class DurableFolder:
    """One folder of files that are whole or absent. Safe to use from many threads.

    Its caller must keep two writers of the same name apart.
    """

    path: Path
    _fd: int
    _guard: threading.Lock = field(factory=threading.Lock, init=False)
    _next: _Commit = field(init=False)
    _syncing: bool = field(default=False, init=False)
    _made: int = field(default=0, init=False)
    """Number of times that the folder was made again (count)."""

    @_next.default
    def _new_commit(self) -> _Commit:
        return _Commit(threading.Condition(self._guard))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder; a missing one is created.

        Raises:
            FolderUnusable: It can't be created, opened or written.
        """
        make_folder(path)
        try:
            fd = os.open(path, _FOLDER)
        except OSError as error:
            raise FolderUnusable(folder=path, error=error) from error
        return cls(path, fd)

    def close(self) -> None:
        """Close the folder's descriptor; later puts fail."""
        os.close(self._fd)

    def put(self, name: str, data: bytes) -> None:
        """Make `data` the content of a file. When this returns, the content survives a power cut.

        Raises:
            StoreUnavailable: It may or may not be stored; write it again.
        """
        self.put_all({name: data})

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Put several files, each whole or absent, with one fsync of the folder.

        Raises:
            StoreUnavailable: As `put`.
        """
        made = self._made
        try:
            self._put_once(files)
        except StoreUnavailable:
            with self._failing_on(""):
                self._make_again()
            if made == self._made:
                raise
        if made != self._made:
            # They may have gone into the folder before.
            self._put_once(files)

    def _put_once(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            with self._failing_on(name):
                self._replace(name, data)
        with self._failing_on(""):
            self._sync()

    def _is_there(self) -> bool:
        """Return whether the open folder is still the one at its path: what is put into another one, nobody finds."""
        try:
            return is_at(self.path, os.fstat(self._fd))
        except OSError:
            # It has been closed.
            return False

    def _make_again(self) -> None:
        """Make the folder again if it was removed, or open the one that has taken its place."""
        with self._guard:
            if self._is_there():
                return
            try:
                make_folder(self.path)
            except FolderUnusable as unusable:
                raise unusable.error from unusable
            fd = os.open(self.path, _FOLDER)
            # Whoever uses the descriptor at this moment has the old folder, or the new one.
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
            self._made += 1
        structlog.get_logger().warning("folder_made_again", path=str(self.path))

    def adopt(self, file: Path, name: str, data: bytes) -> None:
        """Move a file of this file system to a name here, with `data` written over its content.

        If its blocks are allocated, that takes no space on the disk. `file` is gone afterwards, also after a failure.

        Raises:
            StoreUnavailable: It may or may not be stored; write it again.
        """
        with self._failing_on(name):
            try:
                self._overwrite(file, name, data)
            finally:
                with suppress(OSError):
                    os.unlink(file)
            self._sync()

    def _overwrite(self, file: Path, name: str, data: bytes) -> None:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(fd, data)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(file, name, dst_dir_fd=self._fd)

    def remove(self, name: str, *, durably: bool = False) -> None:
        """Remove a file; a missing one is fine. Unless `durably` is set, a power cut may bring it back.

        Raises:
            StoreUnavailable: It still exists, or may come back.
        """
        with self._failing_on(name):
            try:
                os.unlink(name, dir_fd=self._fd)
            except FileNotFoundError:
                return
            if durably:
                self._sync()

    @contextmanager
    def _failing_on(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(path=self.path / name, error=error) from error

    def _replace(self, name: str, data: bytes) -> None:
        aside = f"{_ASIDE}{os.urandom(_UNIQUE_BYTES).hex()}-{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(aside, flags, FILE_MODE, dir_fd=self._fd)
        try:
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            # A full disk must not stay full of our half-written files.
            with suppress(OSError):
                os.unlink(aside, dir_fd=self._fd)
            raise

    def _sync(self) -> None:
        with self._guard:
            mine = self._next
            while self._syncing and not mine.done:
                mine.ended.wait()
            if not mine.done:
                self._syncing = True
                self._next = self._new_commit()
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _lead(self, commit: _Commit) -> None:
        error: OSError | None = None
        try:
            os.fsync(self._fd)
            if not self._is_there():
                self._make_again()
                error = OSError(ESTALE, os.strerror(ESTALE))
        except OSError as failure:
            error = failure
        with self._guard:
            commit.done, commit.error = True, error
            self._syncing = False
            commit.ended.notify_all()
            self._next.ended.notify()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
