"""Modes of files and folders that the daemon and live runs need: they are restored if a run changes them.

A run's wall doesn't hold chmod(2) (docs/security.md). The daemon's own folders are held open, so that nobody can keep it
from them. The folders and files of a live run are checked when one of them changes, but nothing in its workspace, which
is the run's own. So are files elsewhere that the daemon needs, such as those with secrets, and the folders on the way.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.agent.store import inotify
from dispatchd.agent.store.durable import FILE_MODE, FOLDER_MODE, drop_default_acl
from dispatchd.agent.store.runs import RunFolder

_NAMES: Final = (".", "jobs", "history", "quarantine", "runs", "reserve")

_USED: Final = "jobs"
"""Folder that each daemon makes in its state folder."""

_TO_READ: Final = 0o500
_ALL: Final = 0o777

_SOCKET_MODE: Final = 0o660
"""That of the control socket."""


@define(eq=False)
class _Need:
    """Paths that are needed together: their modes are restored, outermost first, when one of the watched paths changes."""

    paths: tuple[Path, ...]
    watched: tuple[Path, ...]
    to_read: bool = False
    """True if they are only read."""
    _modes: dict[Path, int] = field(factory=dict, init=False)
    """Last modes in which the paths could be used; a change from one such mode to another stands."""

    def restore(self) -> int:
        """Restore the modes of paths that can't be used. Return the number restored."""
        return sum(self._restore(path) for path in self.paths)

    def _restore(self, path: Path) -> int:
        with suppress(OSError):
            seen = path.lstat()
            if not self.to_read and stat.S_ISDIR(seen.st_mode):
                drop_default_acl(path)
            if not _missing(seen, to_read=self.to_read):
                self._modes[path] = stat.S_IMODE(seen.st_mode)
                return 0
            with _opened(path) as fd:
                now = os.fstat(fd)
                missing = _missing(now, to_read=self.to_read)
                mode = stat.S_IMODE(now.st_mode) | missing
                _change(fd, self._modes.get(path, mode))
                return 1
        return 0


@frozen(eq=False)
class _QueuedNeed:
    """Paths that an attempt needs once it begins: made at each look, because a thousand may wait in a queue."""

    run: Path
    number: int

    @property
    def watched(self) -> tuple[Path, ...]:
        """Paths whose changes lead to a look."""
        return self.live.watched

    def restore(self) -> int:
        """Restore the modes of paths that can't be used. Return the number restored."""
        return self.live.restore()

    @property
    def live(self) -> _Need:
        """The same paths, for an attempt that has begun."""
        folders, files = RunFolder(path=self.run).needed(self.number)
        return _Need((*folders, *files), folders)


@define
class HeldFolders:
    """A state folder and its folders, held open so that their modes can be restored, and the paths that are needed beside them."""

    descriptors: list[int]
    changes: int = -1
    """Readable when a mode may have to be given back; -1 where the kernel refuses that."""
    _tops: dict[int, int] = field(factory=dict, init=False)
    """Descriptors of the held folders, by their watches."""
    _needs: dict[int, _Need | _QueuedNeed] = field(factory=dict, init=False)
    """Files that live runs need, and those that are needed elsewhere, by watches."""
    _elsewhere: _Need = field(factory=lambda: _Need((), ()), init=False)
    _live: dict[_Need | _QueuedNeed, None] = field(factory=dict, init=False)
    """Files that live runs need, and those of attempts in a queue, watched or not."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the state folder and those of its folders that exist; the caller closes them.

        Raises:
            OSError: A path can't be opened.
        """
        held = cls([])
        for name in _NAMES:
            if (folder / name).is_dir():
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                held.descriptors.append(os.open(folder / name, flags))
        return held

    def watch(self) -> None:
        """Begin to watch, if that hasn't begun.

        Raises:
            OSError: The kernel refuses; it may be tried again.
        """
        if self.changes >= 0:
            return
        changes = inotify.create()
        try:
            for fd in self.descriptors:
                self._tops[inotify.watch(changes, f"/proc/self/fd/{fd}")] = fd
        except BaseException:
            os.close(changes)
            raise
        self.changes = changes
        for need in (self._elsewhere, *self._live):
            self._watch(need)
        # Changes before the watch.
        self._restore_all()

    def close(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())
        if self.changes >= 0:
            os.close(self.changes)
            self.changes = -1

    @contextmanager
    def guarding(
        self, run: RunFolder, number: int, *, is_queued: bool = False
    ) -> Iterator[None]:
        """Restore the modes of the paths that a live or queued attempt needs, for the length of a block. Blocks for a moment."""
        queued = _QueuedNeed(run.path, number)
        need = queued if is_queued else queued.live
        need.restore()
        self._live[need] = None
        self._watch(need)
        try:
            yield
        finally:
            del self._live[need]
            self._unwatch(need)

    def need_elsewhere(self, files: Iterable[Path]) -> None:
        """Restore the modes of files, and of this user's folders on the way, from now on; they replace those of the last call. Blocks for a moment."""
        real = [Path(os.path.realpath(file)) for file in files]
        ways = ((*reversed(file.parents), file) for file in real)
        paths = tuple(dict.fromkeys(path for way in ways for path in way))
        if paths == self._elsewhere.paths:
            return
        self._unwatch(self._elsewhere)
        # Others' modes are out of reach for a run, too.
        own = tuple(path for path in paths if _is_own(path))
        self._elsewhere = _Need(paths, own, to_read=True)
        self._elsewhere.restore()
        self._watch(self._elsewhere)

    def _watch(self, need: _Need | _QueuedNeed) -> None:
        for path in need.watched:
            # Without a watch it is given back when it is next looked at.
            with suppress(OSError):
                self._needs[inotify.watch(self.changes, str(path))] = need

    def _unwatch(self, need: _Need | _QueuedNeed) -> None:
        for watch in [watch for watch, of in self._needs.items() if of is need]:
            del self._needs[watch]
            if watch not in self._tops:
                inotify.unwatch(self.changes, watch)

    def restore(self) -> int:
        """Restore this user's access to everything that changed since the last call, or that may have, without a watch.

        Return the number restored.
        """
        changed = inotify.changes(self.changes) if self.changes >= 0 else None
        if changed is None:
            # Of records those that are read are in memory; the rest is for the next start.
            return self._restore_all()
        restored = 0
        for watch, name in changed:
            if watch in self._tops:
                top = self._tops[watch]
                restored += _restore_in(top, name) if name else _restore(top)
        for need in {
            self._needs[watch] for watch, _ in changed if watch in self._needs
        }:
            restored += need.restore()
            # Something else may be in its place by now.
            self._watch(need)
        return restored

    def _restore_all(self) -> int:
        return sum(map(_restore, self.descriptors)) + sum(
            need.restore() for need in (self._elsewhere, *self._live)
        )


def restore_state(folder: Path) -> int:
    """Restore this user's access to a state folder and its entries. Return the number restored. Blocks.

    For a start: runs continue while there is no daemon. The entries of a folder that no daemon has used are left alone:
    somebody may have named `/etc`.
    """
    restored = _Need((folder,), ()).restore()
    if not (folder / _USED).is_dir():
        return restored
    for name in _NAMES:
        path = folder / name
        restored += _Need((path,), ()).restore()
        with suppress(OSError):
            restored += _Need(tuple(path.iterdir()), ()).restore()
    return restored


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


@contextmanager
def _opened(path: Path | str, folder: int | None = None) -> Iterator[int]:
    """Yield a descriptor that needs no permission, and never that of a link's target (open(2), O_PATH)."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _restore_in(folder: int, name: str) -> int:
    """Restore the mode of an entry of a folder, if it exists, and never through a link."""
    with suppress(OSError):
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(seen.st_mode) or _missing(seen):
            with _opened(name, folder) as fd:
                return _restore(fd)
    return 0


def _restore(fd: int) -> int:
    """Restore the mode of an open file or folder. Return 1 if it couldn't be used, else 0."""
    drop_default_acl(fd)
    status = os.fstat(fd)
    missing = _missing(status)
    if missing:
        _change(fd, stat.S_IMODE(status.st_mode) | missing)
    return int(bool(missing))


def _change(fd: int, mode: int) -> None:
    # fchmod(2) doesn't take a descriptor that was opened as a path; its name in proc does.
    Path(f"/proc/self/fd/{fd}").chmod(mode)


def _missing(status: os.stat_result, *, to_read: bool = False) -> int:
    """Return the missing bits of a mode; 0 for files of other users, which no run can change either."""
    if status.st_uid != os.geteuid():
        return 0
    needed = 0
    if stat.S_ISDIR(status.st_mode):
        needed = FOLDER_MODE
    elif stat.S_ISSOCK(status.st_mode):
        needed = _SOCKET_MODE
    elif stat.S_ISREG(status.st_mode):
        needed = FILE_MODE
    return needed & (_TO_READ if to_read else _ALL) & ~status.st_mode
