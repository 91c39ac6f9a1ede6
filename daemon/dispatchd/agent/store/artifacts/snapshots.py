"""Snapshots of artifacts: copies that no run reaches, one folder for each job, until the endpoint has them.

The hash of a file is that of its copy. So what was announced stays as it is, whatever a process that has outlived the
run still writes. A folder appears when it is complete and synced; its list is the debt that a restarted daemon finds,
also after a power cut: the job may have been finished by then, and its workspace may be gone.
"""

import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.agent.store.artifacts.find import Search
from dispatchd.agent.store.durable import FILE_MODE, FOLDER_MODE, make_folder
from dispatchd.agent.store.names import file_name
from dispatchd.errors import FolderUnusable
from dispatchd.linux.folder_tree import remove_tree
from dispatchd.linux.untrusted_files import is_missing, read_regular
from dispatchd.protocol.uploads.artifacts import (
    MOST_FILES,
    Artifact,
    ArtifactList,
    path_problem,
)

_LIST: Final = "list.json"
_NEW: Final = ".new-"
"""Prefix of a folder that isn't complete; the file name of no job begins with a dot."""

_PART: Final = "part"
"""Name of a copy that isn't complete."""

_UNIQUE_BYTES: Final = 6

_PIECE: Final = 1 << 20
"""Part of a file that is copied at a time (bytes)."""

_LARGEST_LIST: Final = 8 << 20
"""Largest list that is read (bytes): JSON writes a character of a path as 12 at most."""

_MOST_NAMED: Final = 20
"""Most files that are named with the reason why they were left out (count)."""

_SYNCS: Final = 8
"""Files that are synced at the same time (count)."""

_FICLONE: Final = 0x40049409
"""Request that lets two files share their blocks (ioctl_ficlone(2)); btrfs and XFS have it."""


@frozen(kw_only=True)
class Bounds:
    """Bounds of one snapshot."""

    most_bytes: int
    """Largest size of all files together (bytes)."""
    min_free_bytes: int
    """Free space that is left on the disk (bytes)."""
    is_late: Callable[[], bool]
    """Returns whether the time for it is over."""


@frozen(kw_only=True)
class Snapshot:
    """Copies of the artifacts of an attempt."""

    job_id: str
    listed: ArtifactList
    folder: Path

    def read(self, file: Artifact, offset: int, most: int) -> bytes:
        """Return at most `most` bytes of a file from an offset. Blocks.

        Raises:
            OSError: It isn't here any more.
        """
        data = read_regular(self.folder / file.sha256, most, offset)
        return b"" if data is None else data


@frozen(kw_only=True)
class Kept:
    """Outcome of a snapshot: what it has, and why the rest was left out, in words."""

    files: int
    size: int
    left_out: tuple[str, ...]


@define(eq=False)
class Snapshots:
    """Snapshots in a folder of the daemon's, from several threads. Calls block, but for `names`."""

    _folder: Path
    _names: set[str] = field(factory=set, init=False)
    """Names of the folders: to list them on the disk at each change of a job would cost more than the change."""
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(cls, state_folder: Path) -> Self:
        """Open those of a state folder, and remove what a crash has left incomplete. Called before any is taken.

        Raises:
            FolderUnusable: It can't be used.
        """
        folder = state_folder / "artifacts"
        make_folder(folder)
        snapshots = cls(folder)
        try:
            for path in folder.iterdir():
                if path.name.startswith(_NEW):
                    remove_tree(path)
                elif not path.name.startswith("."):
                    snapshots._names.add(path.name)
        except OSError as error:
            raise FolderUnusable(folder=folder, error=error) from error
        return snapshots

    def take(
        self, owner: "Owner", workspace: Path, wanted: "Wanted", bounds: Bounds
    ) -> Kept:
        """Copy the artifacts of an attempt; they replace those of an earlier one.

        Raises:
            OSError: They can't be stored.
        """
        new = self._folder / f"{_NEW}{os.urandom(_UNIQUE_BYTES).hex()}"
        new.mkdir(mode=FOLDER_MODE, parents=True)
        copies = _Copies(new, bounds)
        try:
            search = Search(
                workspace=workspace, take=copies.take, is_over=copies.is_over
            )
            search.run(wanted.paths, wanted.patterns)
            (new / _PART).unlink(missing_ok=True)
            document = {
                "job_id": owner.job_id,
                "attempt": owner.attempt,
                "files": [file.to_wire() for file in copies.files],
            }
            _write(new / _LIST, json.dumps(document))
            _sync_all(new)
            name = file_name(owner.job_id)
            with self._guard:
                remove_tree(self._folder / name)
                new.rename(self._folder / name)
                self._names.add(name)
            _sync(self._folder)
        except BaseException:
            remove_tree(new)
            raise
        return Kept(
            files=len(copies.files),
            size=copies.total_bytes,
            left_out=(*copies.left_out, *search.problems),
        )

    def names(self) -> list[str]:
        """Return the names of the snapshots' folders, sorted. Doesn't block."""
        return sorted(self._names.copy())

    def read(self, name: str) -> Snapshot | None:
        """Return the snapshot in a folder; None if there is none that can be read."""
        folder = self._folder / name
        try:
            text = read_regular(folder / _LIST, _LARGEST_LIST)
            document = json.loads(text or b"")
            files = tuple(Artifact.from_wire(each) for each in document["files"])
            listed = ArtifactList(attempt=int(document["attempt"]), files=files)
            return Snapshot(
                job_id=str(document["job_id"]), listed=listed, folder=folder
            )
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def remove(self, name: str, snapshot: Snapshot | None) -> None:
        """Remove a snapshot that needs no further calls, unless that of a newer attempt has replaced it."""
        with self._guard:
            if self.read(name) == snapshot:
                remove_tree(self._folder / name)
                # A folder that is away for a moment has taken nothing with it.
                if is_missing(self._folder / name) and not is_missing(self._folder):
                    self._names.discard(name)


@frozen(kw_only=True)
class Owner:
    """Attempt that has left artifacts."""

    job_id: str
    attempt: int


@frozen(kw_only=True)
class Wanted:
    """Paths of files and folders, and patterns of such paths, relative to the workspace."""

    paths: tuple[str, ...]
    patterns: tuple[str, ...]


@define
class _Copies:
    """Copies of files in a new folder, each under its hash."""

    _folder: Path
    _bounds: Bounds
    files: list[Artifact] = field(factory=list, init=False)
    left_out: list[str] = field(factory=list, init=False)
    total_bytes: int = field(default=0, init=False)

    def is_over(self) -> bool:
        """Return whether no further file is copied."""
        if self._bounds.is_late():
            self._leave_out("the rest", "the time for copies is over")
            return True
        return False

    def take(self, path: str, entry: int) -> None:
        """Copy a file, by its path and a descriptor that may not be read from (open(2), O_PATH).

        Raises:
            OSError: The copy can't be stored, or the file can't be read.
        """
        problem = path_problem(path)
        if not stat.S_ISREG(os.fstat(entry).st_mode):
            problem = "it isn't a regular file"
        elif len(self.files) >= MOST_FILES:
            problem = f"there are more than {MOST_FILES} files"
        if problem:
            self._leave_out(path, problem)
            return
        # A file that somebody has leased would hold the open(2) up (fcntl(2), F_SETLEASE).
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        source = os.open(f"/proc/self/fd/{entry}", flags)
        try:
            self._copy(path, source)
        finally:
            os.close(source)

    def _copy(self, path: str, source: int) -> None:
        before = os.fstat(source)
        problem = self._no_space_for(before.st_size)
        if problem:
            self._leave_out(path, problem)
            return
        part = self._folder / _PART
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        target = os.open(part, flags, FILE_MODE)
        try:
            digest = self._copied(source, target, before)
            size = os.fstat(target).st_size
        finally:
            os.close(target)
        if not digest:
            self._leave_out(path, "it changed while it was copied, or took too long")
            part.unlink()
            return
        part.replace(self._folder / digest)
        self.total_bytes += size
        self.files.append(Artifact(path=path, size=size, sha256=digest))

    def _no_space_for(self, size: int) -> str:
        """Return why a file isn't copied, in words; empty if it is."""
        most = self._bounds.most_bytes
        if self.total_bytes + size > most:
            return f"all together would be larger than {most >> 20} MiB (artifacts_max_mib)"
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._bounds.min_free_bytes + size:
            return "the disk has too little free space"
        return ""

    def _copied(self, source: int, target: int, before: os.stat_result) -> str:
        """Copy a file, and return the SHA-256 of the copy; empty if the file has changed, or the time is over."""
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            return self._copied_by_pieces(source, target, before)
        if os.fstat(target).st_size != before.st_size:
            return ""
        return self._hash(target, before.st_size, None)

    def _copied_by_pieces(
        self, source: int, target: int, before: os.stat_result
    ) -> str:
        digest = self._hash(source, before.st_size, target)
        after = os.fstat(source)
        same = (before.st_size, before.st_mtime_ns) == (
            after.st_size,
            after.st_mtime_ns,
        )
        return digest if same else ""

    def _hash(self, source: int, size: int, target: int | None) -> str:
        """Return the SHA-256 of a file, which is written to `target`; empty if it is shorter or the time is over."""
        digest, at = sha256(), 0
        while at < size:
            piece = os.pread(source, min(_PIECE, size - at), at)
            if not piece or self._bounds.is_late():
                return ""
            digest.update(piece)
            if target is not None and piece.strip(b"\0"):
                _write_all(target, piece, at)
            at += len(piece)
        if target is not None:
            # Zeros at the end aren't written, so that holes stay holes.
            os.ftruncate(target, size)
        return digest.hexdigest()

    def _leave_out(self, path: str, reason: str) -> None:
        said = f"{path}: {reason}"
        if len(self.left_out) < _MOST_NAMED and said not in self.left_out:
            self.left_out.append(said)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(FILE_MODE)


def _sync_all(folder: Path) -> None:
    """Sync a folder and the files in it.

    Raises:
        OSError: One may be gone after a power cut.
    """
    # The journal of a file system takes files together that are synced at the same time.
    with ThreadPoolExecutor(_SYNCS) as threads:
        for done in [threads.submit(_sync, path) for path in folder.iterdir()]:
            done.result()
    _sync(folder)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
