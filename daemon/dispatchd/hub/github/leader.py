"""Leader lock of a database: of all its hub processes only the holder calls GitHub on its own initiative.

PostgreSQL: an advisory lock of a session of its own, which the server frees when the session ends (PostgreSQL
docs, 13.3.5). No pooler in transaction mode may be between. SQLite: flock(2) on a file beside the database, which
the kernel frees. A holder that is cut off continues until it notices, at most `_LOOK_S + _DEAD_S`. Work under the
lock has to tolerate a second holder for that time.
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
from dispatchd.hub.storage.database import Database

Loop = Callable[[], Coroutine[Any, Any, None]]

AGAIN_S: Final = 2.0
"""Wait between two attempts to get the lock (seconds)."""

_LOOK_S: Final = 2.0
"""Interval of the holder's checks that it still has the lock (seconds); a closed connection is noticed at once."""

_DEAD_S: Final = 5.0
"""Time limit of the server's answer to such a check (seconds)."""

_KEY: Final = 0x64697371
"""Number of the advisory lock; arbitrary, but not used by others."""


class Held(Protocol):
    """A lock that this process holds."""

    async def lost(self) -> None:
        """Return once this process no longer holds it."""
        ...


@frozen
class Lock:
    """The lock of a database; each process has one."""

    database: Database
    bugs: BugFence

    async def run_while_held(self, *loops: Loop) -> Never:
        """Run loops whenever this process holds the lock, and try to get it while it doesn't.

        Args:
            loops: Started each time the lock is got, and cancelled when it is lost.
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
        """Yield the lock, held until the block ends; None if another process holds it or it is unavailable."""
        if self.database.is_shared:
            # It imports the driver of PostgreSQL, which SQLite doesn't need.
            from dispatchd.hub.github.session_lock import session_lock  # noqa: PLC0415

            async with session_lock(
                self.database, _KEY, look_s=_LOOK_S, dead_s=_DEAD_S
            ) as held:
                yield held
            return
        async with _file_lock(self.database) as lock:
            yield lock


@frozen
class _Flocked:
    async def lost(self) -> None:
        # A lock of flock(2) can't be lost.
        await anyio.sleep_forever()


@asynccontextmanager
async def _file_lock(database: Database) -> AsyncIterator[Held | None]:
    name = database.engine.url.database
    if not name or name == ":memory:":
        # No other process can open that database.
        yield _Flocked()
        return
    descriptor = await anyio.to_thread.run_sync(_flocked, f"{name}-github.lock")
    try:
        yield None if descriptor is None else _Flocked()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _flocked(path: str) -> int | None:
    """Return the descriptor that holds the lock of a file, or None if another process holds it."""
    try:
        # The file is never removed: removing it while another process waits would make two locks of one.
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
