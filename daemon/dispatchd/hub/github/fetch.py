"""What a walk has found, fetched and taken in, the oldest first.

Whether a failure is GitHub's or that of one delivery shows only when another one can be had. Until then all keep
their order: an event that waits for GitHub is taken in before those that came after it.
"""

import math
from functools import partial

import structlog
from attrs import field, frozen

from dispatchd.domain.job import Json
from dispatchd.hub.desk import Desk
from dispatchd.hub.github.answers import GithubError, Limited, NoCredential, NotThere
from dispatchd.hub.github.client import Client
from dispatchd.hub.github.inbox import Inbox, Taken
from dispatchd.hub.github.listed import Listed, Unreadable, arrival, has_payload
from dispatchd.hub.github.postponed import NOT_THERE_S, UNCLEAR_S, Postponed
from dispatchd.hub.github.routing import route
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.github.walk import Walk, Wanted
from dispatchd.hub.model import Delivery, QueueFull, StorageBusy


@frozen(kw_only=True)
class Fetcher:
    """Fetches events and takes them in."""

    desk: Desk
    settings: GithubSettings
    client: Client
    postponed: Postponed = field(factory=Postponed, init=False)
    """What couldn't be had."""

    async def fetch(self, walk: Walk) -> None:
        """Take in what a walk has found; whatever is finished, or put off, leaves it.

        Raises:
            Limited: There were too many calls.
            NoCredential: GitHub doesn't take what it is asked with.
            GithubError: Something else is the matter.

        Fails with QueueFull or StorageBusy where an event can't be taken in now.
        """
        passed: list[Wanted] = []
        for wanted in walk.in_order():
            try:
                document = await self._document(wanted)
            except (Limited, NoCredential):
                raise
            except GithubError:
                passed.append(wanted)
                if not self.postponed.may_pass([each.guid for each in passed]):
                    # GitHub's own trouble, most likely.
                    raise
                continue
            # GitHub hands events out, so these are to be had now, or are themselves the matter.
            for each in passed:
                await self._try_again(walk, each)
            passed = []
            await self._finish(walk, wanted, document)
        for each in passed:
            # They take part in the next walk, which has to begin for that.
            self._put_off(walk, each, math.inf)

    async def _try_again(self, walk: Walk, wanted: Wanted) -> None:
        """Fetch an event once more, or put it off.

        Raises:
            Limited: There were too many calls.
            NoCredential: GitHub doesn't take what it is asked with.
        """
        try:
            document = await self._document(wanted)
        except (Limited, NoCredential):
            raise
        except GithubError:
            self._put_off(walk, wanted, UNCLEAR_S)
        else:
            await self._finish(walk, wanted, document)

    async def _document(self, wanted: Wanted) -> Json:
        """Return the first of an event's tries that is there with its payload, or None."""
        for delivery_id in wanted.ids:
            try:
                document = await self.client.delivery(delivery_id)
            except NotThere:
                continue
            if has_payload(document):
                return document
        return None

    async def _finish(self, walk: Walk, wanted: Wanted, document: Json) -> None:
        if document is None:
            self._put_off(walk, wanted, NOT_THERE_S)
            return
        taken = await self.desk.use(partial(self._take, wanted, document))
        for job in taken.jobs:
            self.desk.tell(job)
        self.postponed.forget([wanted.guid])
        del walk.found[wanted.guid]

    def _take(self, wanted: Wanted, document: Json) -> Taken:
        """Take an event in, or note why it can't be. Blocks.

        Fails with QueueFull where it asks for a job and as many wait as may, and with StorageBusy.
        """
        passing = (QueueFull, StorageBusy, Unreadable)
        try:
            # A bug that one delivery brings out must not stop all that come after it.
            with self.desk.bugs.contained(
                "github deliveries", {"delivery": wanted.guid}, passing=passing
            ) as containment:
                found = arrival(
                    self.settings.target, wanted.guid, wanted.event, document
                )
                taken = Inbox(self.desk).take(found, route(found.event, self.settings))
            if not containment.bug:
                return taken
            reason = f"it can't be taken in, which is a bug ({containment.bug}); the hub's log has more"
        except Unreadable as error:
            reason = f"it can't be read: {error}"
        delivery = self.ignored(wanted, reason)
        self.desk.deliveries.keep_new([delivery])
        return Taken(delivery=delivery)

    def _put_off(self, walk: Walk, wanted: Wanted, patience_s: float) -> None:
        log = structlog.get_logger().bind(delivery=wanted.guid, tries=[*wanted.ids])
        is_new = wanted.guid not in self.postponed.guids()
        now = self.github_now()
        if not self.postponed.put_off(wanted, now=now, patience_s=patience_s):
            reason = f"GitHub lists it and hasn't handed it out for {patience_s:g} s"
            log.warning("github_delivery_lost", reason=reason)
        elif is_new:
            log.info("github_delivery_put_off")
        del walk.found[wanted.guid]

    def ignored(self, about: Listed | Wanted, reason: str) -> Delivery:
        """Return what is kept of an event that nothing is made of, with the reason."""
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

    @property
    def ahead_s(self) -> float:
        """How far GitHub's clock is ahead of the hub's, by its newest answer (seconds)."""
        return self.client.credentials.transport.ahead_s

    def github_now(self) -> float:
        """Return the time by GitHub's clock."""
        return self.desk.now() + self.ahead_s
