"""Back end of a GitHub App: builds the parts that call GitHub, and runs their loops in one of the hub's processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom

from attrs import frozen
from starlette.routing import Route

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.context import Context
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.credentials import Credentials
from dispatchd.hub.github.api.transport import transport
from dispatchd.hub.github.checks.publisher import Publisher
from dispatchd.hub.github.ingest.resolve import Resolver
from dispatchd.hub.github.ingest.webhook import Webhook
from dispatchd.hub.github.leader import Lock
from dispatchd.hub.github.poller.poll import Poller
from dispatchd.hub.github.run_tokens import RunTokens


@frozen(kw_only=True)
class Backend:
    """Parts that receive from GitHub or call it."""

    webhook: Webhook
    run_tokens: RunTokens
    publisher: Publisher
    resolver: Resolver
    poller: Poller | None
    """Poller of deliveries; None for a hub with a token, which has none to fetch."""
    lock: Lock

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [*self.webhook.routes(), *self.run_tokens.routes()]

    async def run(self) -> None:
        """Run the loops that only one process of a database may run, while this one holds the lock."""
        loops = [self.publisher.run, self.resolver.run]
        if self.poller is not None:
            loops.append(self.poller.run)
        await self.lock.run_while_held(*loops)


@asynccontextmanager
async def backend(context: Context, settings: GithubSettings) -> AsyncIterator[Backend]:
    """Yield the back end.

    Raises:
        ConfigError: The key, the token, certificates or proxy can't be used.
    """
    async with transport(
        settings, now=context.now, known=context.known, environment=context.environment
    ) as way:
        credentials, chance = Credentials.open(settings, way), SystemRandom()
        client = Client(credentials)
        publisher = Publisher(context, settings, client, chance)
        yield Backend(
            webhook=Webhook.of(context, settings),
            run_tokens=RunTokens(
                context=context, settings=settings, credentials=credentials
            ),
            publisher=publisher,
            resolver=Resolver(
                context=context,
                settings=settings,
                client=client,
                gates=publisher.gates,
                random=chance,
            ),
            poller=Poller(
                context=context, settings=settings, client=client, random=chance
            )
            if settings.is_app
            else None,
            lock=Lock(context.stores.database, context.bugs),
        )
