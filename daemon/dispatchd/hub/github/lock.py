"""The one lock of a database: of all hub processes on it only its holder speaks to GitHub by itself.

PostgreSQL: an advisory lock of a session of its own, which the server frees when the session ends (PostgreSQL
docs, 13.3.5), so that a pooler in transaction mode must not stand between. SQLite: flock(2) on a file beside
the database, which the kernel frees. A holder that can't be heard of any more may go on for as long as it takes
it to notice, at most `_LOOK_S + _DEAD_S`; what is done under the lock has to bear that.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Never, Protocol

import anyio
import structlog
from attrs import frozen

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.hub.database import Database

Loop = Callable[[], Coroutine[Any, Any, None]]

AGAIN_S: Final = 2.0
"""How long after a try that found it taken the next one is made (seconds)."""

_LOOK_S: Final = 2.0
"""How often the holder makes sure that it still has it (seconds); a closed connection is noticed at once."""

_DEAD_S: Final = 5.0
"""How long the server may take to say so (seconds)."""

_KEY: Final = 0x64697371
"""The advisory lock's number; any that nobody else uses would do."""


class Held(Protocol):
    """A lock that this process has."""

    async def lost(self) -> None:
        """Return once it isn't ours any more."""
        ...


@frozen
class Lock:
    """The lock of a database; each process has one."""

    database: Database
    bugs: BugFence

    async def run_while_held(self, *loops: Loop) -> Never:
        """Run loops whenever this process has the lock, and try to get it while it hasn't.

        Args:
            loops: Each is started anew each time the lock is had, and cancelled when it is lost.
        """
        await self.bugs.rounds("github lock", partial(self._round, loops))

    async def _round(self, loops: Sequence[Loop]) -> None:
        log = structlog.get_logger()
        async with self.attempt() as held:
            self.bugs.worked("github lock")
            if held is not None:
                log.info("github_lock_held")
                async with anyio.create_task_group() as tasks:
                    for loop in loops:
                        tasks.start_soon(loop)
                    await held.lost()
                    log.warning("github_lock_lost")
                    tasks.cancel_scope.cancel()
        await anyio.sleep(AGAIN_S)

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Held | None]:
        """Give the lock for the length of the block, or None where another process has it or nobody can have it."""
        if self.database.is_shared:
            # With the driver of PostgreSQL, which SQLite doesn't need.
            from dispatchd.hub.github.session_lock import session_lock  # noqa: PLC0415

            async with session_lock(
                self.database, _KEY, look_s=_LOOK_S, dead_s=_DEAD_S
            ) as held:
                yield held
            return
        async with _file_lock(self.database) as found:
            yield found


@frozen
class _Flocked:
    async def lost(self) -> None:
        # Nobody can take it away.
        await anyio.sleep_forever()


@asynccontextmanager
async def _file_lock(database: Database) -> AsyncIterator[Held | None]:
    name = database.engine.url.database
    if not name or name == ":memory:":
        # Nobody else can have that database.
        yield _Flocked()
        return
    descriptor = await anyio.to_thread.run_sync(_flocked, f"{name}-github.lock")
    try:
        yield None if descriptor is None else _Flocked()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _flocked(path: str) -> int | None:
    """Return the descriptor of a file that is locked by it, or None where another process has it locked."""
    try:
        # It goes on existing: who removes it while another waits for it makes two locks of one.
        descriptor = os.open(Path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        structlog.get_logger().warning("github_lock_unusable", error=error.strerror)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
