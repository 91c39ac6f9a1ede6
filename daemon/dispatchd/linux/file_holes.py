"""Holes in files: disk space freed in the middle of a file that is still being written.

Sizes and offsets stay, so the writer notices nothing. Facts from fallocate(2) and lseek(2).
"""

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02

MARKER: Final = re.compile(
    r"\n\[dispatchd: [0-9,]{1,30} bytes of output are left out here\]\n\Z"
)
"""Form of the text that stands in the place of a part that was left out, at the end of what is before it."""

_BLOCK: Final = 4096
"""Alignment of holes (bytes): the usual block. The kernel writes zeros into parts of larger blocks."""

_SECTOR: Final = 512
"""Unit of `st_blocks` (bytes; stat(3type))."""

_HEAD_PART: Final = 4
_TAIL_PART: Final = 2
"""Divisor for the tail: of the size that a file may have, a quarter stays of its head and half of its tail. So
it isn't cut at every look."""


def _nothing(_path: Path, _start: int, _end: int) -> None:
    pass


def allocated(path: Path) -> int:
    """Return the disk space of a file (bytes); 0 if it doesn't exist."""
    try:
        return _room(path.stat(follow_symlinks=False))
    except OSError:
        return 0


def cut_middle(
    path: Path, most: int, before: Callable[[Path, int, int], object] = _nothing
) -> bool:
    """Free the middle of a file that takes more disk space than `most` (bytes). Return whether something was freed.

    `before` is called with the part first (bytes from, bytes to), so that what matters of it can be noted. A marker at the beginning of the hole gives the size of the part left out. Anything but a regular file with one
    name is left alone: its writer may have put a link in its place.

    Raises:
        OSError: The file system has no holes, or the file can't be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        file_stat = os.fstat(fd)
        if not stat.S_ISREG(file_stat.st_mode) or file_stat.st_nlink != 1:
            return False
        start = most // _HEAD_PART // _BLOCK * _BLOCK
        end = (file_stat.st_size - most // _TAIL_PART) // _BLOCK * _BLOCK
        if _room(file_stat) <= most or end <= start + _BLOCK:
            return False
        before(path, start, end)
        _punch(fd, start, end - start)
        with suppress(OSError):
            # On a full disk another process may take the block; the hole exists without a marker too.
            os.pwrite(fd, _marker(end - start), start)
        return True
    finally:
        os.close(fd)


def read_around_holes(
    path: Path, chunk_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """Yield the content of a file between two offsets, but for its holes and the zeros before them.

    Anything but a regular file has no content: without isolation a command can put anything in its place.

    Raises:
        OSError: The file can't be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        size = os.fstat(file.fileno()).st_size if end is None else end
        position = start
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
                until = min(size, os.lseek(file.fileno(), position, os.SEEK_HOLE))
            except OSError:
                # Only a hole is behind it.
                return
            while position < until:
                data = os.pread(
                    file.fileno(), min(chunk_bytes, until - position), position
                )
                position += len(data)
                is_before_hole = position == until < size
                yield data.rstrip(b"\0") if is_before_hole else data
                if not data:
                    return


def next_piece(fd: int, position: int, most: int) -> tuple[bytes, int, int]:
    """Return the next content of a file that is being written, the size of the hole before it, and the place behind it.

    Zeros before a hole are left out, as by `read_around_holes`. A piece ends at a multiple of `most` (bytes), so that the
    pieces are the same however the file grows. At the end of the file the place is `position`.

    Raises:
        OSError: It can't be read.
    """
    size = os.fstat(fd).st_size
    if position >= size:
        return b"", 0, position
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # Only a hole is behind it.
        return b"", 0, position
    until = min(size, os.lseek(fd, start, os.SEEK_HOLE))
    data = os.pread(fd, min(until, (start // most + 1) * most) - start, start)
    end = start + len(data)
    if end == until < size:
        data = data.rstrip(b"\0")
    return data, start - position, end


def end_of_head(path: Path) -> int | None:
    """Return the place up to which `cut_middle` has left a file as it was (bytes); None if it has a whole middle."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        # The block before the hole has the marker.
        return max(0, hole - _BLOCK) if hole < os.fstat(fd).st_size else None
    except OSError:
        return None
    finally:
        os.close(fd)


def hole_bytes(path: Path) -> int:
    """Return the size of the holes that a file has before data (bytes); 0 for one that can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    size, holes, position = os.fstat(fd).st_size, 0, 0
    try:
        while position < size:
            data = os.lseek(fd, position, os.SEEK_DATA)
            holes += data - position
            position = os.lseek(fd, data, os.SEEK_HOLE)
    except OSError:
        # No data is behind it, or it is no file.
        return holes
    finally:
        os.close(fd)
    return holes


def _room(file_stat: os.stat_result) -> int:
    # Some file systems count no blocks.
    return file_stat.st_blocks * _SECTOR or file_stat.st_size


def _marker(left_out: int) -> bytes:
    return f"\n[dispatchd: {left_out:,} bytes of output are left out here]\n".encode()


def _punch(fd: int, start: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    mode = _KEEP_SIZE | _PUNCH_HOLE
    if libc.fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
