"""What hub processes on one PostgreSQL tell each other: which job is new or has another state."""

from functools import partial
from typing import Final

import anyio
import psycopg
import structlog
from attrs import frozen

from dispatchd.hub.database import CHANNEL
from dispatchd.hub.desk import Desk
from dispatchd.hub.domain.news import ANYTHING, News

_AGAIN_S: Final = 1.0
"""How long after a lost connection the next one is tried (seconds)."""

_LOOK_S: Final = 0.5
"""How long a silent connection is believed (seconds); one that is closed is noticed at once."""

_LATE_S: Final = 0.4
"""How long an answer may take before everybody looks for themselves (seconds)."""

_DEAD_S: Final = 2.0
"""How long an answer may take before the connection counts as dead (seconds)."""


@frozen(kw_only=True)
class Listener:
    """Hears what other hub processes do with jobs, and wakes who waits here for it.

    A connection that died silently hears nothing, which looks like a quiet night. So the server is asked after
    each silence, and while it doesn't answer everybody who waits here looks once a second.
    """

    desk: Desk

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made anew."""
        url = self.desk.database.engine.url.set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)
        await self.desk.bugs.rounds("listener", partial(self._round, address))

    async def _round(self, address: str) -> None:
        try:
            await self._listen(address)
        except* (OSError, psycopg.Error, TimeoutError) as errors:
            words = " ".join(str(errors.exceptions[0]).split())
            log = structlog.get_logger()
            log.warning(
                "database_lost", error=words or "no answer", retry_in_s=_AGAIN_S
            )
        finally:
            # What was told meanwhile is missed.
            self.desk.wake_all()
        await anyio.sleep(_AGAIN_S)

    async def _listen(self, address: str) -> None:
        with anyio.fail_after(_DEAD_S):
            connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
        try:
            with anyio.fail_after(_DEAD_S):
                await connection.execute(f"LISTEN {CHANNEL}")
            # What was told before is missed.
            self.desk.wake_all()
            self.desk.bugs.worked("listener")
            while True:
                async for notice in connection.notifies(timeout=_LOOK_S):
                    self._hear(notice.payload)
                await self._ask(connection)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_DEAD_S):
                await connection.close()

    def _hear(self, payload: str) -> None:
        if payload == ANYTHING:
            self.desk.wake_all()
            return
        origin, news = News.read(payload)
        if origin != self.desk.database.origin:
            self.desk.hear(news)

    async def _ask(self, connection: psycopg.AsyncConnection) -> None:
        """Return once the server has answered.

        Fails with TimeoutError if it doesn't.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._doubt)
            with anyio.fail_after(_DEAD_S):
                await connection.execute("SELECT 1")
            tasks.cancel_scope.cancel()

    async def _doubt(self) -> None:
        while True:
            await anyio.sleep(_LATE_S)
            self.desk.wake_all()
