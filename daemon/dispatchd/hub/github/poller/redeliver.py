"""Redelivery: choice of the deliveries that GitHub is to send again, and the requests. For the owner of a running hub."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

import anyio
from anyio import to_thread
from attrs import frozen

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.poller.listed import Listed, read_page
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore

_BETWEEN_S: Final = 1.0
"""Pause between two writes (seconds; GitHub docs, Best practices for using the REST API)."""


@frozen(kw_only=True)
class Choice:
    """The newest attempt to deliver an event, and whether the hub has the event already."""

    listed: Listed
    is_known: bool = False


@frozen(kw_only=True)
class Chosen:
    """Deliveries to send again, oldest first; `missing` are GUIDs that GitHub doesn't have, or not any more."""

    choices: tuple[Choice, ...]
    missing: tuple[str, ...] = ()


@frozen(kw_only=True)
class Redelivery:
    """Redelivery with a hub's credentials; `database` is the hub's."""

    settings: GithubSettings
    client: Client
    database: Database

    async def choose(self, guids: Sequence[str], since_s: float) -> Chosen:
        """Return the deliveries with some GUIDs, or those that failed and that the hub doesn't have.

        Args:
            guids: GUIDs of the deliveries; none for all that failed.
            since_s: Without GUIDs: largest age of the deliveries (seconds).

        Raises:
            GithubError: GitHub can't be called.
            StorageBusy: The database can't be used now.
        """
        requested = set(guids)
        tries = [listed async for listed in self._tries(requested, since_s)]
        newest = newest_of(tries, requested)
        store, target = DeliveryStore(self.database), self.settings.target
        known = await to_thread.run_sync(store.known, target, [*newest])
        choices = [
            Choice(listed=listed, is_known=listed.guid in known)
            for listed in newest.values()
            if requested or listed.guid not in known
        ]
        return Chosen(
            choices=tuple(
                sorted(choices, key=lambda choice: choice.listed.delivered_at)
            ),
            missing=tuple(guid for guid in guids if guid not in newest),
        )

    async def ask(
        self, choices: Iterable[Choice], say: Callable[[Choice], None]
    ) -> None:
        """Make GitHub redeliver each that the hub doesn't have, and call `say` for each choice.

        Raises:
            GithubError: GitHub can't be called.
        """
        is_first = True
        for choice in choices:
            if not choice.is_known:
                if not is_first:
                    await anyio.sleep(_BETWEEN_S)
                is_first = False
                await self.client.redeliver(choice.listed.id)
            say(choice)

    async def _tries(
        self, requested: set[str], since_s: float
    ) -> AsyncIterator[Listed]:
        """Yield the list, newest first, until all wanted GUIDs are found, or up to the largest age."""
        way, cursor, missing = self.client.credentials.transport, "", set(requested)
        while True:
            page = await self.client.deliveries(cursor)
            now = way.now() + way.ahead_s
            for listed in read_page(page.items, now=now):
                if not requested and listed.delivered_at < now - since_s:
                    return
                missing.discard(listed.guid)
                yield listed
            if page.cursor in ("", cursor) or (requested and not missing):
                return
            cursor = page.cursor


def newest_of(tries: Iterable[Listed], requested: Collection[str]) -> dict[str, Listed]:
    """Return the newest attempt of each wanted event, or, if none is wanted, of each whose attempts have all failed.

    Args:
        tries: The list, newest first.
        requested: GUIDs of the events; none for those whose attempts have all failed.
    """
    newest: dict[str, Listed] = {}
    taken: set[str] = set()
    for listed in tries:
        if listed.was_taken:
            taken.add(listed.guid)
        if not requested or listed.guid in requested:
            newest.setdefault(listed.guid, listed)
    return (
        newest
        if requested
        else {guid: listed for guid, listed in newest.items() if guid not in taken}
    )
