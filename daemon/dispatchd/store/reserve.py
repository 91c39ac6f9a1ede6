"""Room kept back on the disk, so that the end of a run can be recorded when the run has filled it.

It is a folder of files whose blocks are allocated beforehand (posix_fallocate(3)). Such a file becomes a record: the
record is written over its blocks, the rest is cut off, and it is renamed into place. Nothing has to be allocated
then, so a run that goes on writing can't take that room. File systems that write each block anew, such as btrfs, keep
that promise for the first write alone, which is all that is needed.
"""

import os
import threading
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final, Self

from attrs import define, field

from dispatchd.errors import FolderUnusable, StoreUnavailable
from dispatchd.store.durable import FILE_MODE, DurableFolder, make_folder, sweep

FILES: Final = 16
"""How many records there is room for (count): of a run's end there are three, and slots are few."""

FILE_BYTES: Final = 64 * 1024
"""Room for one record (bytes): one has some 4 KiB, and 64 attempts add 20."""

_NO_ROOM: Final = (ENOSPC, EDQUOT)


@define
class Reserve:
    """The room of one state folder; safe to use from many threads."""

    _folder: Path
    _files: list[Path] = field(factory=list)
    _made: int = 0
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the reserve of a state folder, and fill it as far as there is room.

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
        found = []
        for each in path.iterdir():
            if each.stat().st_size >= FILE_BYTES:
                found.append(each)
            else:
                # What a crash has left in the middle of a record, or of making room.
                each.unlink()
        reserve = cls(path, found, max((_number(each) for each in found), default=0))
        reserve.refill()
        return reserve

    def put(self, folder: DurableFolder, name: str, data: bytes) -> bool:
        """Put a record into a folder from the room kept back; False if none is left for it.

        Fails with StoreUnavailable: It may or may not be there; write it anew.
        """
        with self._guard:
            if len(data) > FILE_BYTES or not self._files:
                return False
            file = self._files.pop()
        folder.adopt(file, name, data)
        return True

    def refill(self) -> None:
        """Keep back as much again as there was, as far as there is room; cheap if nothing is missing."""
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
            # It is tried again at the next record; a full disk must not stay full of what isn't enough.
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return False
        self._files.append(file)
        return True


def is_no_room(error: StoreUnavailable) -> bool:
    """Return whether the disk, or a quota on it, is full."""
    return error.error.errno in _NO_ROOM


def _number(file: Path) -> int:
    digits = file.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
