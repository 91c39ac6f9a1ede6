"""Sweeps through GitHub's deliveries: look for unknown events, fetch them, process them.

The table `deliveries` decides: an event is known once it and its jobs are committed, in one transaction (`ingest/inbox.py`).
So the next sweep completes one that was cut short anywhere. The mark only says where that one has to begin, and never
passes an unfinished event.
"""

from typing import Final, Self

import structlog
from attrs import define, evolve, field

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.context import Context
from dispatchd.hub.github.api.client import Client, Page
from dispatchd.hub.github.api.responses import Invalid, NotThere
from dispatchd.hub.github.poller.fetch import Fetcher
from dispatchd.hub.github.poller.listed import Listed, read_page
from dispatchd.hub.github.poller.walk import MOST_PAGES, OVERLAP_S, Walk, watermark
from dispatchd.hub.github.routing.interest import idle
from dispatchd.hub.queue.since_backup import SKIPPED, skip_before
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.delivery_cursor import Progress, mark_of
from dispatchd.protocol.times import iso

_DAY_S: Final = 86_400.0


@define(kw_only=True)
class Sweeper:
    """Sweeps for as long as this process has the lock."""

    context: Context
    settings: GithubSettings
    client: Client
    fetcher: Fetcher
    progress: Progress
    skip_before: float = 0.0
    """Time before which nothing is fetched (seconds since the epoch): a restore can skip older deliveries."""
    _walk: Walk | None = field(default=None, init=False)
    _reach: float = field(default=0.0, init=False)
    """Newest delivery time in this process's walks; events that couldn't be fetched are postponed."""

    @classmethod
    async def open(
        cls, context: Context, settings: GithubSettings, client: Client
    ) -> Self:
        """Return one that continues where the last one stopped, in whatever process.

        Raises:
            StorageBusy: The database can't be used now.
        """
        marks, name = MarkStore(context.stores.database), mark_of(settings.target)
        progress = Progress.read(await context.use(lambda: marks.get(name)))
        if not progress.started_at:
            # Durable before the first call: deliveries from now on have to be found, however often the hub restarts.
            progress = evolve(progress, started_at=context.now())
            await context.use(lambda: marks.put(name, progress.as_mark()))
        return cls(
            context=context,
            settings=settings,
            client=client,
            fetcher=Fetcher(context=context, settings=settings, client=client),
            progress=progress,
            skip_before=await context.use(lambda: skip_before(context.stores.database)),
        )

    async def sweep(self) -> bool:
        """Look, fetch and process; return False if the walk has to continue at once.

        Raises:
            GithubError: GitHub can't be called now; the next call continues, here and below.
            QueueFull: An event asks for a job and the queue is full.
            StorageBusy: The database can't be used now.
        """
        if self._walk is None or not self._walk.is_over:
            await self._look()
        walk = self._walk
        if walk is None or not walk.is_over:
            return False
        await self.fetcher.fetch(walk)
        self._walk = None
        if not self.fetcher.postponed.guids():
            self.progress = evolve(self.progress, swept_at=walk.began_at)
        return True

    async def keep(self, problem: str) -> None:
        """Store the progress, and the problem in words, if there is one.

        Raises:
            StorageBusy: The database can't be used now.
        """
        walk, progress = self._walk, self.progress
        if walk is None or walk.is_over:
            left = [] if walk is None else [*walk.pending.values()]
            late = self.fetcher.postponed.times()
            mark = watermark(
                progress.watermark,
                unfinished=[*(delivery.delivered_at for delivery in left), *late],
                newest=self._reach,
                now=self.fetcher.github_now(),
            )
            progress = evolve(progress, watermark=mark)
        if problem != progress.trouble:
            since = self.context.now() if problem else 0
            progress = evolve(progress, trouble=problem, trouble_at=since)
        self.progress = progress
        marks, name = (
            MarkStore(self.context.stores.database),
            mark_of(self.settings.target),
        )
        await self.context.use(lambda: marks.put(name, progress.as_mark()))

    async def _look(self) -> None:
        """Read on in the list to its known part, or for `MOST_PAGES` pages."""
        for _ in range(MOST_PAGES):
            asked_at = self.context.now()
            page = await self._page("" if self._walk is None else self._walk.cursor)
            if self._walk is None:
                # The first answer has given the time of GitHub's clock.
                self.progress = self.progress.by_github(self.fetcher.ahead_s)
                self._note_loss()
                floor = (self._reach or self.progress.watermark) - OVERLAP_S
                self._walk = Walk(floor=floor, began_at=asked_at + self.fetcher.ahead_s)
            listed = read_page(page.items, now=self.fetcher.github_now())
            self._walk.see(
                listed, page.cursor, await self._to_fetch(listed, self._walk)
            )
            if self._walk.is_over:
                # A delivery time in the future must not hide all deliveries until then.
                seen = min(self._walk.newest, self.fetcher.github_now())
                self._reach = max(self._reach, seen)
                self.fetcher.postponed.forget(
                    await self._known(self.fetcher.postponed.guids())
                )
                self.fetcher.postponed.rejoin(self._walk, now=self.fetcher.github_now())
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
            # The cursor is perhaps no longer valid: begin at the top again.
            self._walk = None
            raise

    async def _to_fetch(self, listed: list[Listed], walk: Walk) -> list[str]:
        """Return the GUIDs of the events to fetch; store those that nothing can want as ignored."""
        new = [
            entry
            for entry in listed
            if entry.delivered_at >= walk.floor
            and not self.fetcher.postponed.is_lost(entry)
        ]
        known = await self._known([entry.guid for entry in new])
        why = {
            entry.guid: (entry, self._reason_against(entry))
            for entry in new
            if entry.guid not in known
        }
        ignored = [
            self.fetcher.ignored(entry, reason)
            for entry, reason in why.values()
            if reason
        ]
        if ignored:
            await self.context.use(
                lambda: self.context.stores.deliveries.keep_new(ignored)
            )
        return [guid for guid, (_, reason) in why.items() if not reason]

    def _reason_against(self, listed: Listed) -> str:
        """Return the reason why a new event is not fetched; empty if it is."""
        if listed.delivered_at < self.skip_before:
            return SKIPPED
        return idle(listed.event, listed.action, self.settings)

    def _note_loss(self) -> None:
        """Note and log the period of deliveries that GitHub no longer has and the hub never fetched."""
        before, kept_s = self.progress, self.settings.retention_days * _DAY_S
        self.progress = before.with_loss(kept_since=self.fetcher.github_now() - kept_s)
        if self.progress.losses == before.losses:
            return
        last = self.progress.losses[-1]
        if any(loss.since == last.since for loss in before.losses):
            # The period has grown, and is logged already.
            return
        structlog.get_logger().warning(
            "github_deliveries_lost",
            since=iso(last.since),
            until=iso(last.until),
            hours=round((last.until - last.since) / 3600, 1),
            reason="GitHub doesn't keep deliveries any longer (github.retention_days)",
            advice="look at GitHub for what happened then, such as pull requests without checks",
        )

    async def _known(self, guids: list[str]) -> set[str]:
        if not guids:
            return set()
        target, store = self.settings.target, self.context.stores.deliveries
        return await self.context.use(lambda: store.known(target, guids))
