"""Files in folders that a command can write to: a path there may be a pipe, a link, or anything else."""

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int, offset: int = 0) -> bytes | None:
    """Return up to `limit` bytes of a regular file, or None for anything else. Never waits for a pipe.

    Raises:
        OSError: Nothing can be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return os.pread(fd, limit, offset)
    finally:
        os.close(fd)


def is_file(path: Path) -> bool:
    """Return whether a path leads to a regular file, as far as this user may look."""
    try:
        return path.is_file()
    except OSError:
        # `is_file` forgives a missing folder alone.
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
