"""The hub as a GitHub App's back end: builds what speaks to GitHub, and runs it on one of the hub's processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom

from attrs import frozen

from dispatchd.hub.desk import Desk
from dispatchd.hub.github.client import Client
from dispatchd.hub.github.credentials import Credentials
from dispatchd.hub.github.lock import Lock
from dispatchd.hub.github.publish import Publisher
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.github.transport import transport


@frozen(kw_only=True)
class Backend:
    """What speaks to GitHub."""

    client: Client
    publisher: Publisher
    lock: Lock

    async def run(self) -> None:
        """Do what only one process on a database may do, whenever this is the one."""
        await self.lock.run_while_held(self.publisher.run)


@asynccontextmanager
async def backend(desk: Desk, settings: GithubSettings) -> AsyncIterator[Backend]:
    """Give the back end for the length of a block. Fails with ConfigError if the key, the token or certificates can't be used."""
    async with transport(settings, now=desk.now, known=desk.known) as way:
        client = Client(Credentials.open(settings, way))
        publisher = Publisher(desk, settings, client, SystemRandom())
        yield Backend(client=client, publisher=publisher, lock=Lock(desk.database))
