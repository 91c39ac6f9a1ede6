"""Files of artifacts. Their names are made here, from hashes: no path that a machine has sent is part of one.

* `FOLDER/id`: id of the folder, for hubs with several processes
* `FOLDER/lock`: held while a file becomes part of an artifact, or is removed
* `FOLDER/parts/NAME`: file that isn't complete, of one job and machine
* `FOLDER/AB/ABCD...`: complete file, by its SHA-256; its time is that at which it last became part of an artifact
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.hub.storage.shared_folder import sync_folder
from dispatchd.protocol.uploads.artifacts import ArtifactChunk

_PIECE: Final = 1 << 20
"""Part of a file that is read at a time (bytes)."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


@frozen
class ArtifactFiles:
    """Files in a folder of artifacts. Calls block."""

    folder: Path

    def whole(self, digest: str) -> Path:
        """Return the path of a complete file."""
        return self.folder / digest[:2] / digest

    def part(self, job_id: str, machine: str, digest: str) -> Path:
        """Return the path of a file that isn't complete."""
        text = f"{len(job_id)} {job_id} {machine} {digest}"
        name = sha256(text.encode(errors="surrogatepass")).hexdigest()
        return self.folder / "parts" / name

    def has(self, digest: str, size: int) -> bool:
        """Return whether there is a complete file of this size."""
        return size_of(self.whole(digest)) == size

    def all(self) -> Iterator[Path]:
        """Yield the complete files."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if _HASH.fullmatch(path.name):
                yield path

    def parts(self) -> Iterator[Path]:
        """Yield the files that aren't complete."""
        yield from (self.folder / "parts").glob("*")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for the length of a block: no file becomes part of an artifact, or is removed.

        Raises:
            OSError: The folder can't be used.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.folder / "lock"):
            yield

    def append(self, path: Path, chunk: ArtifactChunk) -> tuple[int, int]:
        """Write a chunk at the end of an incomplete file; return its size before and after, the same if the chunk is elsewhere.

        Raises:
            OSError: It can't be written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path) as fd:
            size = os.fstat(fd).st_size
            if chunk.offset <= size < chunk.end:
                _write_all(fd, chunk.data[size - chunk.offset :], size)
            return size, os.fstat(fd).st_size

    @contextmanager
    def completing(self, path: Path, digest: str, *, now: float) -> Iterator[bool]:
        """Give a file of the listed size its place, if it has its hash, and yield whether it has; empty it otherwise.

        The lock is held in the block, so that the rows can be written that keep the file. Bytes that are there
        already are stored once.

        Raises:
            OSError: It can't be done.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path) as fd:
            if _hash_of(fd) != digest:
                os.ftruncate(fd, 0)
                yield False
                return
            os.fsync(fd)
            with self.locked():
                whole = self.whole(digest)
                os.utime(path, (now, now))
                whole.parent.mkdir(mode=0o700, exist_ok=True)
                path.replace(whole)
                for folder in (whole.parent, self.folder):
                    sync_folder(folder)
                yield True


def size_of(path: Path) -> int:
    """Return the size of a file (bytes); -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yield the descriptor of a file, locked against others (flock(2)); a missing one is made."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    """Return whether an open file is still at its path: it may have become a complete one before it was locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


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
