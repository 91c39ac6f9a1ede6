"""Lock of the one hub process that serves an SQLite database."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from dispatchd.errors import NotReachable


@contextmanager
def sole_server(file: str | None) -> Iterator[None]:
    """Hold the lock of a database's file for the length of a block; None for a database that several may serve.

    News of a job goes from a process to its own held polls alone, so that a second one would leave jobs waiting.

    Raises:
        NotReachable: Another hub process has the lock.
    """
    if file is None:
        yield
        return
    # Not the file itself: closing another descriptor of it would drop the locks of SQLite (fcntl_locking(2)).
    fd = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            reason = "another hub process does; several need PostgreSQL"
            raise NotReachable(cannot=f"serve {file}", reason=reason) from error
        except OSError as error:
            # A file system without locks.
            structlog.get_logger().warning("not_locked", path=file, error=str(error))
        yield
    finally:
        os.close(fd)
