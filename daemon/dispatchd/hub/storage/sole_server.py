"""Lock of the one hub process that serves an SQLite database."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Self

import anyio
import structlog
from attrs import define, field

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import NotReachable
from dispatchd.linux.untrusted_files import is_at

_LOOK_S: Final = 5.0
"""Time between two looks whether the lock's file is still there (seconds): people remove one that they take for stale."""


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@define
class SoleServer:
    """Lock of a database's file, in a file beside it.

    Not on the file itself: closing another descriptor of it would drop the locks of SQLite (fcntl_locking(2)).
    """

    _file: str
    _fd: int
    is_lost: bool = field(default=False, init=False)
    """True once another hub process has the lock, because somebody has removed its file."""
    _problem: str | None = field(default=None, init=False)

    @classmethod
    def of(cls, file: str) -> Self:
        """Take the lock.

        Raises:
            NotReachable: Another hub process has it.
        """
        return cls(file, _locked(file))

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    async def keep(
        self,
        bugs: BugFence,
        stop: Callable[[], None] = _end_this_process,
        look_s: float = _LOOK_S,
    ) -> None:
        """Take the lock again where somebody removes its file; call `stop` if another process was faster."""
        await bugs.rounds("lock", partial(self._look, bugs, stop, look_s))

    async def _look(
        self, bugs: BugFence, stop: Callable[[], None], look_s: float
    ) -> None:
        bugs.worked("lock")
        await anyio.sleep(look_s)
        path, log = f"{self._file}.lock", structlog.get_logger()
        if self.is_lost or is_at(path, os.fstat(self._fd)):
            return
        try:
            fd = _locked(self._file)
        except NotReachable:
            self.is_lost = True
            log.error("another_hub_serves", path=path)  # noqa: TRY400  # the cause is known
            stop()
        except OSError as error:
            if self._problem != error.strerror:
                log.warning("not_locked", path=self._file, error=error.strerror)
            self._problem = error.strerror
        else:
            os.close(self._fd)
            self._fd = fd
            log.warning("lock_taken_again", path=path)


@contextmanager
def sole_server(file: str | None) -> Iterator[SoleServer | None]:
    """Hold the lock of a database's file for the length of a block; None for a database that several may serve.

    News of a job goes from a process to its own held polls alone, so that a second one would leave jobs waiting.

    Raises:
        NotReachable: Another hub process has the lock, or has taken it in the meantime.
    """
    if file is None:
        yield None
        return
    sole = SoleServer.of(file)
    try:
        yield sole
    finally:
        sole.close()
    if sole.is_lost:
        reason = f"another hub process does, since somebody removed {file}.lock; end one of them"
        raise NotReachable(cannot=f"serve {file}", reason=reason)


def _locked(file: str) -> int:
    """Return the descriptor of the lock's file, with the lock.

    Raises:
        NotReachable: Another hub process has it.
    """
    fd = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        reason = "another hub process does; several need PostgreSQL"
        raise NotReachable(cannot=f"serve {file}", reason=reason) from error
    except OSError as error:
        # A file system without locks.
        structlog.get_logger().warning("not_locked", path=file, error=str(error))
    return fd
