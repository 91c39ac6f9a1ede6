"""One sweep after another through GitHub's deliveries: look for what isn't known, fetch it, take it in.

The fence is the ledger (`deliveries`): an event is known once it and its jobs are durable, in one transaction
(`inbox.py`), so that a sweep that was cut short anywhere is made good by the next one. The mark only says where
that one has to begin, and never passes an event that isn't dealt with.
"""

from datetime import UTC, datetime
from typing import Final, Self

import structlog
from attrs import define, evolve, field

from dispatchd.hub.desk import Desk
from dispatchd.hub.github.answers import Invalid, NotThere
from dispatchd.hub.github.client import Client, Page
from dispatchd.hub.github.fetch import Fetcher
from dispatchd.hub.github.interest import idle
from dispatchd.hub.github.listed import Listed, read_page
from dispatchd.hub.github.progress import Progress, mark_of
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.github.walk import MOST_PAGES, OVERLAP_S, Walk, watermark
from dispatchd.hub.mark_store import MarkStore
from dispatchd.hub.queue.since_backup import SKIPPED, skip_before

_DAY_S: Final = 86_400.0


@define(kw_only=True)
class Sweeper:
    """Sweeps as long as this process has the lock."""

    desk: Desk
    settings: GithubSettings
    client: Client
    fetcher: Fetcher
    progress: Progress
    skip_before: float = 0.0
    """Of what was delivered before nothing is fetched (seconds since the epoch): a restore has been told to skip it."""
    _walk: Walk | None = field(default=None, init=False)
    _reach: float = field(default=0.0, init=False)
    """The newest time that this process's walks have seen; what they couldn't have is postponed."""

    @classmethod
    async def open(cls, desk: Desk, settings: GithubSettings, client: Client) -> Self:
        """Return one that goes on where the last one, in whatever process, has stopped. Fails with StorageBusy."""
        marks, name = MarkStore(desk.database), mark_of(settings.target)
        progress = Progress.read(await desk.use(lambda: marks.get(name)))
        if not progress.started_at:
            # Durable before anything is asked: what comes from now on has to be found, however often we start.
            progress = evolve(progress, started_at=desk.now())
            await desk.use(lambda: marks.put(name, progress.as_mark()))
        return cls(
            desk=desk,
            settings=settings,
            client=client,
            fetcher=Fetcher(desk=desk, settings=settings, client=client),
            progress=progress,
            skip_before=await desk.use(lambda: skip_before(desk.database)),
        )

    async def sweep(self) -> bool:
        """Look, fetch and take in; return False if the walk has to go on at once.

        Fails with GithubError, QueueFull or StorageBusy if it can't go on now; the next call does.
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

    async def keep(self, trouble: str) -> None:
        """Make durable how far all is dealt with, and what is in the way, in words. Fails with StorageBusy."""
        walk, progress = self._walk, self.progress
        if walk is None or walk.is_over:
            left = [] if walk is None else [*walk.found.values()]
            late = self.fetcher.postponed.times()
            mark = watermark(
                progress.watermark,
                unfinished=[*(each.delivered_at for each in left), *late],
                newest=self._reach,
                now=self.fetcher.github_now(),
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
                self.progress = self.progress.by_github(self.fetcher.ahead_s)
                self._note_loss()
                floor = (self._reach or self.progress.watermark) - OVERLAP_S
                self._walk = Walk(floor=floor, began_at=asked_at + self.fetcher.ahead_s)
            listed = read_page(page.items, now=self.fetcher.github_now())
            self._walk.see(listed, page.cursor, await self._wanted(listed, self._walk))
            if self._walk.is_over:
                # A time that is still to come must not hide all that comes until then.
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
            # Where the cursor doesn't count any more, from the top again.
            self._walk = None
            raise

    async def _wanted(self, listed: list[Listed], walk: Walk) -> list[str]:
        """Return the GUIDs of what has to be fetched; what nothing can want is noted as ignored."""
        new = [
            each
            for each in listed
            if each.delivered_at >= walk.floor
            and not self.fetcher.postponed.is_lost(each)
        ]
        known = await self._known([each.guid for each in new])
        why = {
            each.guid: (each, self._reason_against(each))
            for each in new
            if each.guid not in known
        }
        ignored = [
            self.fetcher.ignored(each, reason)
            for each, reason in why.values()
            if reason
        ]
        if ignored:
            await self.desk.use(lambda: self.desk.deliveries.keep_new(ignored))
        return [guid for guid, (_, reason) in why.items() if not reason]

    def _reason_against(self, listed: Listed) -> str:
        """Return why a new event is not fetched, or an empty string."""
        if listed.delivered_at < self.skip_before:
            return SKIPPED
        return idle(listed.event, listed.action, self.settings)

    def _note_loss(self) -> None:
        """Say which deliveries GitHub doesn't keep any more that were never asked for."""
        before, kept_s = self.progress, self.settings.retention_days * _DAY_S
        self.progress = before.with_loss(kept_since=self.fetcher.github_now() - kept_s)
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

    async def _known(self, guids: list[str]) -> set[str]:
        if not guids:
            return set()
        target, store = self.settings.target, self.desk.deliveries
        return await self.desk.use(lambda: store.known(target, guids))


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
