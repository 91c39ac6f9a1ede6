"""Which deliveries GitHub is asked to send once more, and the asking. For the hub's owner, beside a hub that runs."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

import anyio
from anyio import to_thread
from attrs import frozen

from dispatchd.hub.database import Database
from dispatchd.hub.delivery_store import DeliveryStore
from dispatchd.hub.github.client import Client
from dispatchd.hub.github.listed import Listed, read_page
from dispatchd.hub.github.settings import GithubSettings

_BETWEEN_S: Final = 1.0
"""How far two writes are apart (seconds; GitHub docs, Best practices for using the REST API)."""


@frozen(kw_only=True)
class Choice:
    """An event, the newest try to deliver it, and whether the hub has it already."""

    listed: Listed
    is_known: bool = False


@frozen(kw_only=True)
class Chosen:
    """What was asked for, oldest first; `missing` are GUIDs that GitHub doesn't have, or not any more."""

    choices: tuple[Choice, ...]
    missing: tuple[str, ...] = ()


@frozen(kw_only=True)
class Redelivery:
    """Asks GitHub with a hub's credentials; `database` is the hub's."""

    settings: GithubSettings
    client: Client
    database: Database

    async def choose(self, guids: Sequence[str], since_s: float) -> Chosen:
        """Return the deliveries of some GUIDs, or those that have failed and that the hub doesn't have.

        Args:
            guids: Those that are meant; none for all that have failed.
            since_s: Without GUIDs: how long ago they were delivered at most (seconds).

        Fails with GithubError if GitHub can't be asked, and with StorageBusy if the database can't.
        """
        wanted = set(guids)
        tries = [each async for each in self._tries(wanted, since_s)]
        newest = newest_of(tries, wanted)
        store, target = DeliveryStore(self.database), self.settings.target
        known = await to_thread.run_sync(store.known, target, [*newest])
        choices = [
            Choice(listed=each, is_known=each.guid in known)
            for each in newest.values()
            if wanted or each.guid not in known
        ]
        return Chosen(
            choices=tuple(sorted(choices, key=lambda each: each.listed.delivered_at)),
            missing=tuple(each for each in guids if each not in newest),
        )

    async def ask(
        self, choices: Iterable[Choice], say: Callable[[Choice], None]
    ) -> None:
        """Ask GitHub for each that isn't known, and say so of each. Fails with GithubError where it can't."""
        is_first = True
        for choice in choices:
            if not choice.is_known:
                if not is_first:
                    await anyio.sleep(_BETWEEN_S)
                is_first = False
                await self.client.redeliver(choice.listed.id)
            say(choice)

    async def _tries(self, wanted: set[str], since_s: float) -> AsyncIterator[Listed]:
        """Yield the list, newest first, as far as it matters."""
        way, cursor, missing = self.client.credentials.transport, "", set(wanted)
        while True:
            page = await self.client.deliveries(cursor)
            now = way.now() + way.ahead_s
            for each in read_page(page.items, now=now):
                if not wanted and each.delivered_at < now - since_s:
                    return
                missing.discard(each.guid)
                yield each
            if page.cursor in ("", cursor) or (wanted and not missing):
                return
            cursor = page.cursor


def newest_of(tries: Iterable[Listed], wanted: Collection[str]) -> dict[str, Listed]:
    """Return the newest try of each wanted event, or, without any, of each whose tries have all failed.

    Args:
        tries: The list, newest first.
        wanted: GUIDs.
    """
    newest: dict[str, Listed] = {}
    taken: set[str] = set()
    for each in tries:
        if each.was_taken:
            taken.add(each.guid)
        if not wanted or each.guid in wanted:
            newest.setdefault(each.guid, each)
    return (
        newest
        if wanted
        else {guid: each for guid, each in newest.items() if guid not in taken}
    )
