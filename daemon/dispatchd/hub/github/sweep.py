"""One sweep after another through GitHub's deliveries: look for what isn't known, fetch it, take it in.

The fence is the ledger (`deliveries`): an event is known once it and its jobs are durable, in one transaction
(`inbox.py`), so that a sweep that was cut short anywhere is made good by the next one. The mark only says where
that one has to begin, and never passes an event that isn't dealt with.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Final, Self

import structlog
from attrs import define, evolve, field

from dispatchd.domain.job import Json
from dispatchd.hub.desk import Desk
from dispatchd.hub.github.answers import (
    GithubError,
    Invalid,
    Limited,
    NotPermitted,
    NotThere,
)
from dispatchd.hub.github.client import Client, Page
from dispatchd.hub.github.inbox import Inbox, Taken
from dispatchd.hub.github.interest import idle
from dispatchd.hub.github.listed import Listed, Unreadable, arrival, read_page
from dispatchd.hub.github.postponed import NOT_THERE_S, UNCLEAR_S, Postponed
from dispatchd.hub.github.progress import Progress, mark_of
from dispatchd.hub.github.routing import route
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.github.walk import MOST_PAGES, OVERLAP_S, Walk, Wanted, watermark
from dispatchd.hub.mark_store import MarkStore
from dispatchd.hub.model import Delivery, QueueFull, StorageBusy

_DAY_S: Final = 86_400.0


@define(kw_only=True)
class Sweeper:
    """Sweeps as long as this process has the lock."""

    desk: Desk
    settings: GithubSettings
    client: Client
    progress: Progress
    _walk: Walk | None = field(default=None, init=False)
    _reach: float = field(default=0.0, init=False)
    """The newest time that this process's walks have seen; what they couldn't have is postponed."""
    _postponed: Postponed = field(factory=Postponed, init=False)

    @classmethod
    async def open(cls, desk: Desk, settings: GithubSettings, client: Client) -> Self:
        """Return one that goes on where the last one, in whatever process, has stopped. Fails with StorageBusy."""
        marks, name = MarkStore(desk.database), mark_of(settings.target)
        progress = Progress.read(await desk.use(lambda: marks.get(name)))
        if not progress.started_at:
            # Durable before anything is asked: what comes from now on has to be found, however often we start.
            progress = evolve(progress, started_at=desk.now())
            await desk.use(lambda: marks.put(name, progress.as_mark()))
        return cls(desk=desk, settings=settings, client=client, progress=progress)

    async def sweep(self) -> bool:
        """Look, fetch and take in; return False if the walk has to go on at once.

        Fails with GithubError, QueueFull or StorageBusy if it can't go on now; the next call does.
        """
        if self._walk is None or not self._walk.is_over:
            await self._look()
        walk = self._walk
        if walk is None or not walk.is_over:
            return False
        await self._fetch(walk)
        self._walk = None
        if not self._postponed.guids():
            self.progress = evolve(self.progress, swept_at=walk.began_at)
        return True

    async def keep(self, trouble: str) -> None:
        """Make durable how far all is dealt with, and what is in the way, in words. Fails with StorageBusy."""
        walk, progress = self._walk, self.progress
        if walk is None or walk.is_over:
            left = [] if walk is None else [*walk.found.values()]
            late = self._postponed.times()
            mark = watermark(
                progress.watermark,
                unfinished=[*(each.delivered_at for each in left), *late],
                newest=self._reach,
                now=self._github_now(),
            )
            progress = evolve(progress, watermark=mark)
        if trouble != progress.trouble:
            since = self.desk.now() if trouble else 0
            progress = evolve(progress, trouble=trouble, trouble_at=since)
        self.progress = progress
        marks, name = MarkStore(self.desk.database), mark_of(self.settings.target)
        await self.desk.use(lambda: marks.put(name, progress.as_mark()))

    async def _look(self) -> None:
        """Read on in the list until its known part, or until enough was read in one go."""
        for _ in range(MOST_PAGES):
            asked_at = self.desk.now()
            page = await self._page("" if self._walk is None else self._walk.cursor)
            if self._walk is None:
                # Only now is it known what GitHub's clock shows.
                self.progress = self.progress.by_github(self._ahead_s)
                self._note_loss()
                floor = (self._reach or self.progress.watermark) - OVERLAP_S
                self._walk = Walk(floor=floor, began_at=asked_at + self._ahead_s)
            listed = read_page(page.items, now=self._github_now())
            self._walk.see(listed, page.cursor, await self._wanted(listed, self._walk))
            if self._walk.is_over:
                self._reach = max(self._reach, self._walk.newest)
                self._postponed.forget(await self._known(self._postponed.guids()))
                self._postponed.rejoin(self._walk, now=self._github_now())
                return
        structlog.get_logger().warning(
            "github_deliveries_behind",
            pages=self._walk.pages if self._walk else 0,
            advice="nothing is lost: the list is read on at once, and taken in oldest first when it is through",
        )

    async def _page(self, cursor: str) -> Page:
        try:
            return await self.client.deliveries(cursor)
        except (Invalid, NotThere):
            # Where the cursor doesn't count any more, from the top again.
            self._walk = None
            raise

    async def _wanted(self, listed: list[Listed], walk: Walk) -> list[str]:
        """Return the GUIDs of what has to be fetched; what nothing can want is noted as ignored."""
        new = [
            each
            for each in listed
            if each.delivered_at >= walk.floor and not self._postponed.is_lost(each)
        ]
        known = await self._known([each.guid for each in new])
        why = {
            each.guid: (each, idle(each.event, each.action, self.settings))
            for each in new
            if each.guid not in known
        }
        ignored = [
            self._ignored(each, reason) for each, reason in why.values() if reason
        ]
        if ignored:
            await self.desk.use(lambda: self.desk.deliveries.keep_new(ignored))
        return [guid for guid, (_, reason) in why.items() if not reason]

    async def _fetch(self, walk: Walk) -> None:
        """Take in what a walk has found, oldest first; whatever is finished leaves it.

        Raises:
            Limited: There were too many calls.
            NotPermitted: GitHub doesn't take what it is asked with.
            GithubError: Something else is the matter.
        """
        stumbled = False
        for wanted in walk.in_order():
            try:
                there = await self._take(wanted)
            except (Limited, NotPermitted):
                raise
            except GithubError:
                if not self._postponed.has_failed(wanted.guid) or stumbled:
                    # GitHub's own trouble, most likely.
                    raise
                # This delivery's, most likely.
                stumbled = True
                self._put_off(wanted, UNCLEAR_S)
            else:
                if there:
                    self._postponed.forget([wanted.guid])
                else:
                    self._put_off(wanted, NOT_THERE_S)
            del walk.found[wanted.guid]

    async def _take(self, wanted: Wanted) -> bool:
        """Fetch an event and take it in; return whether it was there."""
        for delivery_id in wanted.ids:
            try:
                document = await self.client.delivery(delivery_id)
            except NotThere:
                continue
            taken = await self.desk.use(partial(self._keep, wanted, document))
            if taken is not None:
                for job in taken.jobs:
                    self.desk.tell(job)
                return True
        return False

    def _keep(self, wanted: Wanted, document: Json) -> Taken | None:
        """Take an event in, or note why it can't be; None if it isn't there. Blocks.

        Raises:
            QueueFull: It asks for a job, and as many wait as may.
            StorageBusy: The database can't be used now.
        """
        inbox = Inbox(self.desk)
        try:
            found = arrival(self.settings.target, wanted.guid, wanted.event, document)
            if found is None:
                return None
            return inbox.take(found, route(found.event, self.settings))
        except (QueueFull, StorageBusy):
            raise
        except Unreadable as error:
            reason = f"it can't be read: {error}"
        except Exception as error:  # noqa: BLE001  # a bug that one delivery brings out must not stop all that come after it
            structlog.get_logger().exception(
                "github_delivery_bug", delivery=wanted.guid
            )
            reason = f"it can't be taken in, which is a bug ({type(error).__name__}); the hub's log has more"
        delivery = self._ignored(wanted, reason)
        self.desk.deliveries.keep_new([delivery])
        return Taken(delivery=delivery)

    def _put_off(self, wanted: Wanted, patience_s: float) -> None:
        log = structlog.get_logger().bind(delivery=wanted.guid, tries=[*wanted.ids])
        is_new = wanted.guid not in self._postponed.guids()
        now = self._github_now()
        if not self._postponed.put_off(wanted, now=now, patience_s=patience_s):
            reason = f"GitHub lists it and hasn't handed it out for {patience_s:g} s"
            log.warning("github_delivery_lost", reason=reason)
        elif is_new:
            log.info("github_delivery_put_off")

    def _note_loss(self) -> None:
        """Say which deliveries GitHub doesn't keep any more that were never asked for."""
        before, kept_s = self.progress, self.settings.retention_days * _DAY_S
        self.progress = before.with_loss(kept_since=self._github_now() - kept_s)
        if self.progress.losses == before.losses:
            return
        last = self.progress.losses[-1]
        if any(each.since == last.since for each in before.losses):
            # It has grown, and was told of.
            return
        structlog.get_logger().warning(
            "github_deliveries_lost",
            since=_when(last.since),
            until=_when(last.until),
            hours=round((last.until - last.since) / 3600, 1),
            reason="GitHub doesn't keep deliveries any longer (github.retention_days)",
            advice="look at GitHub for what happened then, such as pull requests without checks",
        )

    def _ignored(self, about: Listed | Wanted, reason: str) -> Delivery:
        return Delivery(
            target=self.settings.target,
            id=about.guid,
            event=about.event,
            action=about.action,
            installation=about.installation,
            received_at=self.desk.now(),
            routing=reason,
            state="ignored",
        )

    async def _known(self, guids: list[str]) -> set[str]:
        if not guids:
            return set()
        target, store = self.settings.target, self.desk.deliveries
        return await self.desk.use(lambda: store.known(target, guids))

    @property
    def _ahead_s(self) -> float:
        return self.client.credentials.transport.ahead_s

    def _github_now(self) -> float:
        return self.desk.now() + self._ahead_s


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
