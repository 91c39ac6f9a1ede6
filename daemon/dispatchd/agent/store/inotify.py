"""Changes of modes and owners of folders and their entries, as the kernel reports them (inotify(7))."""

import ctypes
import os
import struct
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_ATTRIBUTES: Final = 0x4
"""IN_ATTRIB."""

_OVERFLOW: Final = 0x4000
"""IN_Q_OVERFLOW."""

_HEAD: Final = struct.Struct("=iIII")
"""`struct inotify_event`, before its name."""

_READ: Final = 64 * 1024


def create() -> int:
    """Return a descriptor that is readable when a watched folder or an entry in it has changed. The caller closes it.

    Raises:
        OSError: The kernel refuses, as where this user has too many descriptors of this kind already.
    """
    return _checked(_LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))


def watch(fd: int, folder: str) -> int:
    """Watch the attributes of a folder and of the entries in it. Return the number of the watch.

    Raises:
        OSError: The kernel refuses, as where this user has too many watches already.
    """
    return _checked(_LIBC.inotify_add_watch(fd, os.fsencode(folder), _ATTRIBUTES))


def unwatch(fd: int, number: int) -> None:
    """End a watch; the watch of a folder that is gone has ended."""
    _LIBC.inotify_rm_watch(fd, number)


def changes(fd: int) -> set[tuple[int, str]] | None:
    """Return the changes since the last call, as watch and name; a folder itself has no name.

    None where there were more than the kernel keeps (fs.inotify.max_queued_events): anything may have changed.
    """
    changed: set[tuple[int, str]] = set()
    try:
        data = os.read(fd, _READ)
    except BlockingIOError:
        return changed
    at, overflow = 0, False
    while at < len(data):
        number, mask, _, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + length].rstrip(b"\0")
        at += length
        overflow = overflow or bool(mask & _OVERFLOW)
        changed.add((number, os.fsdecode(name)))
    return None if overflow else changed


def _checked(result: int) -> int:
    """Return the result of a call.

    Raises:
        OSError: The call has failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
