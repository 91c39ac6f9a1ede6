"""Advisory lock of PostgreSQL, held by a session of its own; its loss is noticed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import psycopg
import structlog
from attrs import frozen

from dispatchd.hub.storage.database import Database

Connection = psycopg.AsyncConnection[tuple[object, ...]]


@frozen(kw_only=True)
class SessionLock:
    """A lock that this process holds; implements `lock.Held`."""

    connection: Connection
    look_s: float
    dead_s: float

    async def lost(self) -> None:
        """Return once the session has ended, or the server doesn't answer."""
        try:
            while True:
                # A closed connection ends the wait at once; a silent one shows only by a query.
                async for _ in self.connection.notifies(timeout=self.look_s):
                    pass
                with anyio.fail_after(self.dead_s):
                    await self.connection.execute("SELECT 1")
        except (OSError, psycopg.Error, TimeoutError) as error:
            structlog.get_logger().warning("database_lost", error=_reason_of(error))


@asynccontextmanager
async def session_lock(
    database: Database, key: int, *, look_s: float, dead_s: float
) -> AsyncIterator[SessionLock | None]:
    """Yield the lock, held until the block ends; None if another session holds it or the server doesn't answer.

    Args:
        database: A PostgreSQL database.
        key: The lock's number.
        look_s: Interval at which the holder checks its session (seconds).
        dead_s: Time limit of the server's answers (seconds).
    """
    connection = await _connected(database, dead_s)
    if connection is None:
        yield None
        return
    try:
        has_it = await _try(connection, key, dead_s)
        held = SessionLock(connection=connection, look_s=look_s, dead_s=dead_s)
        yield held if has_it else None
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(dead_s):
            await connection.close()


async def _connected(database: Database, dead_s: float) -> Connection | None:
    url = database.engine.url.set(drivername="postgresql")
    address = url.render_as_string(hide_password=False)
    try:
        with anyio.fail_after(dead_s):
            return await psycopg.AsyncConnection.connect(address, autocommit=True)
    except (OSError, psycopg.Error, TimeoutError) as error:
        structlog.get_logger().warning("database_lost", error=_reason_of(error))
        return None


async def _try(connection: Connection, key: int, dead_s: float) -> bool:
    try:
        with anyio.fail_after(dead_s):
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            return await cursor.fetchone() == (True,)
    except (OSError, psycopg.Error, TimeoutError) as error:
        structlog.get_logger().warning("database_lost", error=_reason_of(error))
        return False


def _reason_of(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
