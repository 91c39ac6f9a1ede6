"""Listener for announcements of other hub processes on one PostgreSQL: jobs that are new or have another state."""

from functools import partial
from typing import Final

import anyio
import psycopg
import structlog
from attrs import frozen

from dispatchd.hub.context import Context
from dispatchd.hub.domain.events import ANYTHING, News
from dispatchd.hub.storage.database import CHANNEL

_AGAIN_S: Final = 1.0
"""Wait before the next connection after a lost one (seconds)."""

_LOOK_S: Final = 0.5
"""Silence after which a connection is checked (seconds); a closed one is noticed at once."""

_LATE_S: Final = 0.4
"""Time without an answer after which all waiting requests look for themselves (seconds)."""

_DEAD_S: Final = 2.0
"""Time without an answer after which the connection counts as dead (seconds)."""


@frozen(kw_only=True)
class Listener:
    """Receives the news of other hub processes, and wakes the requests that wait for it in this one.

    A connection that died silently gets nothing, which looks like a quiet time. So the server is queried after each
    silence. While it doesn't answer, all waiting requests look for themselves every `_LATE_S`, and after each try to
    connect.
    """

    context: Context

    async def run(self) -> None:
        """Listen until cancelled; reconnect after a lost connection."""
        url = self.context.stores.database.engine.url.set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)
        await self.context.bugs.rounds("listener", partial(self._round, address))

    async def _round(self, address: str) -> None:
        try:
            await self._listen(address)
        except* (OSError, psycopg.Error, TimeoutError) as errors:
            message = " ".join(str(errors.exceptions[0]).split())
            log = structlog.get_logger()
            log.warning(
                "database_lost", error=message or "no answer", retry_in_s=_AGAIN_S
            )
        finally:
            # News sent meanwhile is missed.
            self.context.waiting.wake_all()
        await anyio.sleep(_AGAIN_S)

    async def _listen(self, address: str) -> None:
        with anyio.fail_after(_DEAD_S):
            connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
        try:
            with anyio.fail_after(_DEAD_S):
                await connection.execute(f"LISTEN {CHANNEL}")
            # News sent before is missed.
            self.context.waiting.wake_all()
            self.context.bugs.worked("listener")
            while True:
                async for notice in connection.notifies(timeout=_LOOK_S):
                    self._hear(notice.payload)
                await self._ask(connection)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_DEAD_S):
                await connection.close()

    def _hear(self, payload: str) -> None:
        if payload == ANYTHING:
            self.context.waiting.wake_all()
            return
        origin, news = News.read(payload)
        if origin != self.context.stores.database.origin:
            self.context.waiting.receive(news)

    async def _ask(self, connection: psycopg.AsyncConnection) -> None:
        """Query the server, and return once it has answered.

        Raises:
            TimeoutError: It doesn't answer.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._doubt)
            with anyio.fail_after(_DEAD_S):
                await connection.execute("SELECT 1")
            tasks.cancel_scope.cancel()

    async def _doubt(self) -> None:
        while True:
            await anyio.sleep(_LATE_S)
            self.context.waiting.wake_all()
