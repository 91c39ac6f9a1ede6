"""Logs of attempts in files: appended by chunks, read by offset, removed when they are old.

A chunk is written at its place. Text that the hub has there already and that differs is replaced, and the log ends
after the chunk: the newest text of a machine is the right one (contracts/README.md, logs). Chunks aren't synced to the
disk one by one. The answer to each says up to where the hub has the log, so what a power cut takes is sent again. The
chunk that ends a log has the hash of all of it; a log that has it is synced, and marked as whole.

Every change of a log holds the lock of its file (flock(2)), so that several processes may share the folder.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import frozen

from dispatchd.hub.domain.errors import LogsFull, LogTooLarge
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.logs.files import (
    LOG,
    WHOLE,
    LogFiles,
    machine_name,
    part_of,
)
from dispatchd.hub.storage.shared_folder import is_shared_folder, sync_folder
from dispatchd.protocol.report import LogChunk

WATCHED_S: Final = 15.0
"""Time for which a look at a log counts as watching it (seconds)."""

_LEAST_FREE: Final = 256 << 20
"""Free space that logs leave on their disk (bytes): the database may be on the same one."""

_PIECE: Final = 1 << 20
"""Part of a log that is read at a time (bytes)."""

FOLDER_MARK: Final = "folder of logs"
"""Name of the mark with the id of the folder that the hub processes of a database share."""


@frozen(kw_only=True)
class LogPart:
    """Log of one attempt on one machine, by its server id. `is_whole` is true once it is complete."""

    machine: str
    attempt: int
    size: int
    is_whole: bool
    changed_at: float


@frozen(kw_only=True)
class LogStore:
    """Logs in a folder. Calls block, and may come from any thread."""

    files: LogFiles
    most_bytes: int
    """Most that the logs of one job may have together (bytes)."""
    is_shared: bool = True
    """False where other hub processes of the same database have another folder."""

    @classmethod
    def open(cls, folder: Path, most_bytes: int, database: Database) -> Self:
        """Return the logs of a hub. Find out whether its folder is that of all processes of the database.

        Raises:
            FolderUnusable: It can't be used.
            StorageBusy: The database can't be used now.
        """
        is_shared = is_shared_folder(folder, FOLDER_MARK, database)
        return cls(files=LogFiles(folder), most_bytes=most_bytes, is_shared=is_shared)

    def append(self, job_id: str, machine: str, chunk: LogChunk) -> int:
        """Store a chunk, and return up to where the log of its attempt is stored (bytes).

        A chunk behind the end of what is stored isn't stored. If a log isn't what the hash of its last chunk says, the
        answer is 0: all of it has to be sent again.

        Raises:
            LogTooLarge: The logs of the job would be too large.
            LogsFull: The disk has no space for logs.
        """
        path = self.files.of_attempt(job_id, machine, chunk.attempt)
        if not chunk.data and not chunk.whole and not path.exists():
            return 0
        try:
            with self._locked(path) as fd:
                size = os.fstat(fd).st_size
                is_over = path.with_suffix(WHOLE).exists() and not chunk.whole
                if chunk.offset > size or is_over:
                    # A chunk that was on the way for long must not damage a complete log.
                    return size
                self._write(fd, path, chunk, size)
                if chunk.whole:
                    return self._end(fd, path, chunk)
                return os.fstat(fd).st_size
        except OSError as error:
            raise LogsFull(error.strerror or str(error)) from error

    def parts(self, job_id: str, machines: Sequence[str]) -> list[LogPart]:
        """Return the logs of a job in the order of its attempts.

        Args:
            job_id: The job.
            machines: Server ids of the machines that have had the job, the first one first.
        """
        order = {machine_name(machine): place for place, machine in enumerate(machines)}
        found = []
        folder = self.files.of_job(job_id)
        with _trouble_is_said("logs_not_read", folder):
            for entry in os.scandir(folder):
                part = part_of(entry.name)
                if part is not None and part[0] in order:
                    whole = Path(entry.path).with_suffix(WHOLE)
                    file_stat = entry.stat()
                    stored = LogPart(
                        machine=machines[order[part[0]]],
                        attempt=part[1],
                        size=file_stat.st_size,
                        is_whole=whole.exists(),
                        changed_at=file_stat.st_mtime,
                    )
                    found.append((order[part[0]], part[1], stored))
        return [stored for *_, stored in sorted(found, key=lambda each: each[:2])]

    def read(self, job_id: str, part: LogPart, offset: int, most: int) -> bytes:
        """Return at most `most` bytes of a log from an offset; empty where it has none."""
        path = self.files.of_attempt(job_id, part.machine, part.attempt)
        data = bytearray()
        with _trouble_is_said("logs_not_read", path), path.open("rb") as file:
            data += os.pread(file.fileno(), most, offset)
        return bytes(data)

    def watch(self, job_id: str, *, now: float) -> bool:
        """Note that somebody watches a job's log; return whether nobody has for a while."""
        is_new = not self.is_watched(job_id, now=now)
        mark = self.files.mark(job_id)
        with suppress(OSError):
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch(mode=0o600)
            os.utime(mark, (now, now))
        return is_new

    def is_watched(self, job_id: str, *, now: float) -> bool:
        """Return whether somebody watches a job's log."""
        try:
            return abs(now - self.files.mark(job_id).stat().st_mtime) < WATCHED_S
        except OSError:
            return False

    def prune(self, *, before: float) -> int:
        """Remove the logs of each job of which nothing was written since a time; return the number of jobs."""
        for mark in self.files.watched.glob("*"):
            with _trouble_is_said("logs_not_removed", mark):
                if mark.stat().st_mtime < before:
                    mark.unlink()
        removed = 0
        for folder in self.files.folder.glob("[0-9a-f][0-9a-f]/*/"):
            with _trouble_is_said("logs_not_removed", folder):
                removed += _prune(folder, before)
        return removed

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        """Yield the descriptor of a log, locked against other writers; the log is made if there is none."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _write(self, fd: int, path: Path, chunk: LogChunk, size: int) -> None:
        """Write a chunk where the log doesn't have the same text already.

        Raises:
            LogTooLarge: The logs of the job would be too large.
            LogsFull: The disk has no space for logs.
        """
        stored = os.pread(fd, len(chunk.data), chunk.offset)
        if chunk.data.startswith(stored):
            same = len(stored)
        else:
            same = _common(stored, chunk.data)
        is_longer = size > chunk.end
        if same < len(chunk.data):
            self._require_space(path, chunk.end - size)
            path.with_suffix(WHOLE).unlink(missing_ok=True)
            os.ftruncate(fd, chunk.offset + same)
            _write_all(fd, chunk.data[same:], chunk.offset + same)
        elif chunk.whole and is_longer:
            os.ftruncate(fd, chunk.end)

    def _end(self, fd: int, path: Path, chunk: LogChunk) -> int:
        """Mark a log as whole if it has the hash of all of it; return its size, or 0 if it hasn't."""
        if _hash_of(fd) != chunk.whole:
            return 0
        os.fsync(fd)
        whole = path.with_suffix(WHOLE)
        whole.touch(mode=0o600)
        for folder in (path.parent, path.parent.parent, self.files.folder):
            sync_folder(folder)
        return chunk.end

    def _require_space(self, path: Path, more: int) -> None:
        used = sum(
            entry.stat().st_size
            for entry in os.scandir(path.parent)
            if entry.name.endswith(LOG)
        )
        if used + more > self.most_bytes:
            raise LogTooLarge(self.most_bytes)
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE + more:
            message = f"less than {_LEAST_FREE >> 20} MiB are free"
            raise LogsFull(message)


@contextmanager
def _trouble_is_said(event: str, path: Path) -> Iterator[None]:
    """End a block at an error of a path, and log it: what else there is works on."""
    try:
        yield
    except FileNotFoundError:
        # Another hub process has removed it.
        pass
    except OSError as error:
        structlog.get_logger().warning(event, path=str(path), error=error.strerror)


def _prune(folder: Path, before: float) -> bool:
    """Remove the logs of a job if nothing was written since a time; return whether they were removed.

    Raises:
        OSError: A file can't be removed.
    """
    entries = [*folder.iterdir()]
    newest = max((entry.stat().st_mtime for entry in entries), default=0.0)
    if newest >= before:
        return False
    for entry in entries:
        entry.unlink(missing_ok=True)
    # A chunk that comes just now keeps it.
    with suppress(OSError):
        folder.rmdir()
    return True


def _common(one: bytes, other: bytes) -> int:
    """Return the length of the beginning that two texts share (bytes)."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
        )
    return low


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _hash_of(fd: int) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest, at = sha256(), 0
    while piece := os.pread(fd, _PIECE, at):
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()
