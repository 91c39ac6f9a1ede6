"""What hub processes on one PostgreSQL tell each other: that a job is queued."""

from typing import Final

import anyio
import psycopg
import structlog
from attrs import frozen

from dispatchd.hub.database import CHANNEL, Database
from dispatchd.hub.waiting import WAKE_ALL, News, Polls

_AGAIN_S: Final = 1.0
"""How long after a lost connection the next one is tried (seconds)."""


@frozen(kw_only=True)
class Listener:
    """Hears of every job that is queued by any hub process, its own included, and wakes a poll for it."""

    database: Database
    polls: Polls

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made anew."""
        url = self.database.engine.url.set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)
        while True:
            try:
                await self._listen(address)
            except (OSError, psycopg.Error) as error:
                log = structlog.get_logger()
                log.warning("database_lost", error=str(error), retry_in_s=_AGAIN_S)
            await anyio.sleep(_AGAIN_S)

    async def _listen(self, address: str) -> None:
        connect = psycopg.AsyncConnection.connect
        async with await connect(address, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # What was told before is missed.
            self.polls.wake_all()
            async for notice in connection.notifies():
                if notice.payload == WAKE_ALL:
                    self.polls.wake_all()
                else:
                    self.polls.tell(News.read(notice.payload))
