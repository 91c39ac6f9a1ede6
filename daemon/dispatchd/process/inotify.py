"""Changes of modes and owners of folders and their entries, as the kernel reports them (inotify(7))."""

import ctypes
import os
import struct
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_ATTRIBUTES: Final = 0x4
"""IN_ATTRIB."""

_HEAD: Final = struct.Struct("=iIII")
"""`struct inotify_event`, before its name."""

_READ: Final = 64 * 1024


def watch(folders: list[int]) -> int:
    """Return a descriptor that is readable when the attributes of an open folder, or of an entry in it, have changed.

    The caller closes it. Fails with OSError if the kernel refuses, as where this user has too many watches already.
    """
    fd = _checked(_LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        for each in folders:
            path = os.fsencode(f"/proc/self/fd/{each}")
            _checked(_LIBC.inotify_add_watch(fd, path, _ATTRIBUTES))
    except BaseException:
        os.close(fd)
        raise
    return fd


def names(fd: int) -> set[str]:
    """Return the names of the entries that changed since the last call; a folder itself has no name."""
    found: set[str] = set()
    try:
        data = os.read(fd, _READ)
    except BlockingIOError:
        return found
    at = 0
    while at < len(data):
        *_, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + length].rstrip(b"\0")
        at += length
        if name:
            found.add(os.fsdecode(name))
    return found


def _checked(result: int) -> int:
    """Return the result of a call.

    Raises:
        OSError: The call has failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
