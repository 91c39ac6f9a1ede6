"""Files in folders that a command can write to: a path there may be a pipe, a link, or anything else."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular(path: Path | str, limit: int, offset: int = 0) -> bytes | None:
    """Return up to `limit` bytes of a regular file, or None for anything else. Never waits for a pipe.

    Raises:
        OSError: Nothing can be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        file_stat = os.fstat(fd)
        if not stat.S_ISREG(file_stat.st_mode):
            return None
        # No more than there is: for a large limit, Python would ask the kernel for as much memory first.
        return os.pread(fd, min(limit, max(0, file_stat.st_size - offset)), offset)
    finally:
        os.close(fd)


def is_missing(path: Path) -> bool:
    """Return whether nothing is at a path; False if that can't be known."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def read_text(path: Path) -> str:
    """Return the text of a regular file, or of the one that a link leads to. Never waits for a pipe.

    Fails with UnicodeDecodeError if it is no text.

    Raises:
        OSError: It can't be opened, or is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it isn't a regular file", str(path))
        with os.fdopen(fd, encoding="utf-8", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def is_file(path: Path) -> bool:
    """Return whether a path leads to a regular file, as far as this user may look."""
    try:
        return path.is_file()
    except OSError:
        # `is_file` forgives a missing folder alone.
        return False


_OF_THE_DISK: Final = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
"""Errors that what is at a path doesn't explain."""


def what_is_at(path: Path, error: OSError) -> str:
    """Return the kind and the owner of what is at a path and may have caused an error, in words.

    It is empty if there is nothing, nobody may look, or the error has another cause, such as a full disk.
    """
    if error.errno in _OF_THE_DISK:
        return ""
    try:
        link_stat = path.lstat()
        is_link = stat.S_ISLNK(link_stat.st_mode)
        target = f" to {str(path.readlink())!r}" if is_link else ""
    except OSError:
        return ""
    kind = next(
        (name for is_it, name in _KINDS if is_it(link_stat.st_mode)), "something"
    )
    return f"{kind}{target} of user {link_stat.st_uid}"


def is_at(path: Path | str, status: os.stat_result) -> bool:
    """Return whether a file or folder is still the one that had a status, such as of its open descriptor (fstat(2))."""
    try:
        return os.path.samestat(status, Path(path).stat())
    except OSError:
        return False


def write_new(path: Path, data: bytes) -> None:
    """Write a file in place of anything at its path; never through a link.

    Raises:
        OSError: That is impossible, as where a folder has taken its place.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
