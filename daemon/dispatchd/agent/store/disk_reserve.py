"""Reserve: disk space kept back, so that the end of a run can be recorded when the run has filled the disk.

It is a folder of files whose blocks are allocated beforehand (posix_fallocate(3)). Such a file becomes a record: the
record is written over its blocks, the rest is cut off, and it is renamed into place. Nothing has to be allocated
then, so a run that keeps writing can't take that space. File systems that write each block to a new place, such as btrfs,
guarantee that for the first write alone, which is enough.
"""

import os
import stat
import threading
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import define, field

from dispatchd.agent.store.durable import FILE_MODE, DurableFolder, make_folder, sweep
from dispatchd.errors import FolderUnusable, StoreUnavailable

FILES: Final = 16
"""Records that have space in it (count): the end of a run takes three, and slots are few."""

FILE_BYTES: Final = 64 * 1024
"""Space for one record (bytes): one has some 4 KiB, and 64 attempts add 20."""

_BLOCK_BYTES: Final = 512
"""Unit of `st_blocks` (bytes; stat(2))."""

_NO_ROOM: Final = (ENOSPC, EDQUOT)


@define
class Reserve:
    """Reserve of one state folder. Safe to use from many threads."""

    _folder: Path
    _files: list[Path] = field(factory=list)
    _made: int = 0
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the reserve of a state folder, and fill it as far as the disk has space.

        Raises:
            FolderUnusable: The folder can't be used, for another reason than a full disk.
        """
        path = folder / "reserve"
        try:
            make_folder(path)
            sweep(path)
        except FolderUnusable as error:
            if error.error.errno in _NO_ROOM:
                return cls(path)
            raise
        names = sorted(path.iterdir())
        usable = [file for file in names if _has_space(file)]
        for file in names:
            if file not in usable:
                _remove(file)
        reserve = cls(path, usable, max((_number(file) for file in names), default=0))
        reserve.refill()
        return reserve

    def put(self, folder: DurableFolder, name: str, data: bytes) -> bool:
        """Put a record into a folder, with space from the reserve. Return False if the reserve has none for it.

        Raises:
            StoreUnavailable: It may or may not be stored; write it again.
        """
        with self._guard:
            if len(data) > FILE_BYTES or not self._files:
                return False
            file = self._files.pop()
        folder.adopt(file, name, data)
        return True

    def refill(self) -> None:
        """Refill the reserve, as far as the disk has space; cheap if nothing is missing."""
        with self._guard:
            while len(self._files) < FILES and self._add():
                pass

    def _add(self) -> bool:
        self._made += 1
        file = self._folder / f"room-{self._made}"
        try:
            fd = os.open(
                file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE
            )
            try:
                os.posix_fallocate(fd, 0, FILE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            # It is tried again at the next record. A full disk must not stay full of a file that is too small.
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return False
        self._files.append(file)
        return True


def is_no_room(error: StoreUnavailable) -> bool:
    """Return whether the disk, or a quota on it, is full."""
    return error.error.errno in _NO_ROOM


def _has_space(file: Path) -> bool:
    """Return whether a file of the reserve has its blocks: one that was copied or restored may have holes."""
    status = file.lstat()
    allocated = status.st_blocks * _BLOCK_BYTES
    return stat.S_ISREG(status.st_mode) and min(status.st_size, allocated) >= FILE_BYTES


def _remove(file: Path) -> None:
    """Remove a file that a crash has left while a record was written or the reserve was filled; anything else stays."""
    try:
        file.unlink()
    except OSError as error:
        structlog.get_logger().warning(
            "left_over_not_removed", path=str(file), error=error.strerror
        )


def _number(file: Path) -> int:
    digits = file.name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
