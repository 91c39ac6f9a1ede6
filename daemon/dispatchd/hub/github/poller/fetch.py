"""Fetching of the events that a walk has found: oldest first, each is read from GitHub and processed.

A failure may be GitHub's, or that of one delivery; the next delivery that can be fetched shows which. Until then all
keep their order: an event that waits for GitHub is processed before those that came after it.
"""

import math
from functools import partial

import structlog
from attrs import field, frozen

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import QueueFull, StorageBusy
from dispatchd.hub.domain.model import Delivery
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.responses import (
    GithubError,
    Limited,
    NoCredential,
    NotThere,
)
from dispatchd.hub.github.ingest.inbox import Inbox, Taken
from dispatchd.hub.github.poller.listed import Listed, Unreadable, arrival, has_payload
from dispatchd.hub.github.poller.postponed import NOT_THERE_S, UNCLEAR_S, Postponed
from dispatchd.hub.github.poller.walk import PendingDelivery, Walk
from dispatchd.hub.github.routing.route import route
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import duration


@frozen(kw_only=True)
class Fetcher:
    """Fetches events and passes them to the inbox."""

    context: Context
    settings: GithubSettings
    client: Client
    postponed: Postponed = field(factory=Postponed, init=False)
    """Events that couldn't be fetched."""

    async def fetch(self, walk: Walk) -> None:
        """Fetch and process the events of a walk; those that are finished or postponed are removed from it.

        Raises:
            Limited: There were too many calls.
            NoCredential: GitHub rejects the credential.
            GithubError: GitHub failed in another way.
            QueueFull: An event asks for a job and the queue is full.
            StorageBusy: The database can't be used now.
        """
        passed: list[PendingDelivery] = []
        for pending in walk.in_order():
            try:
                document = await self._document(pending)
            except (Limited, NoCredential):
                raise
            except GithubError:
                passed.append(pending)
                if not self.postponed.may_pass([earlier.guid for earlier in passed]):
                    # Most likely a failure of GitHub itself.
                    raise
                continue
            # GitHub serves events again: those that failed before can be fetched now, or are themselves broken.
            for earlier in passed:
                await self._try_again(walk, earlier)
            passed = []
            await self._finish(walk, pending, document)
        for earlier in passed:
            # Postponed without a time limit, so that they take part in the next walk.
            self._put_off(walk, earlier, math.inf)

    async def _try_again(self, walk: Walk, pending: PendingDelivery) -> None:
        """Fetch an event again, or postpone it.

        Raises:
            Limited: There were too many calls.
            NoCredential: GitHub rejects the credential.
        """
        try:
            document = await self._document(pending)
        except (Limited, NoCredential):
            raise
        except GithubError:
            self._put_off(walk, pending, UNCLEAR_S)
        else:
            await self._finish(walk, pending, document)

    async def _document(self, pending: PendingDelivery) -> Json:
        """Return the first of an event's delivery attempts that GitHub has with its payload, or None."""
        for delivery_id in pending.ids:
            try:
                document = await self.client.delivery(delivery_id)
            except NotThere:
                continue
            if has_payload(document):
                return document
        return None

    async def _finish(
        self, walk: Walk, pending: PendingDelivery, document: Json
    ) -> None:
        if document is None:
            self._put_off(walk, pending, NOT_THERE_S)
            return
        taken = await self.context.use(partial(self._take, pending, document))
        for job in taken.jobs:
            self.context.waiting.notify(job)
        self.postponed.forget([pending.guid])
        del walk.pending[pending.guid]

    def _take(self, pending: PendingDelivery, document: Json) -> Taken:
        """Process an event, or store the reason why it can't be. Blocks.

        Raises:
            QueueFull: The event asks for a job and the queue is full.
            StorageBusy: The database can't be used now.
        """
        passing = (QueueFull, StorageBusy, Unreadable)
        try:
            # A bug that one delivery triggers must not stop all later ones.
            with self.context.bugs.contained(
                "github deliveries", {"delivery": pending.guid}, passing=passing
            ) as containment:
                received = arrival(
                    self.settings.target, pending.guid, pending.event, document
                )
                taken = Inbox(self.context).take(
                    received, route(received.event, self.settings)
                )
            if not containment.bug:
                return taken
            reason = f"it can't be taken in, which is a bug ({containment.bug}); the hub's log has more"
        except Unreadable as error:
            reason = f"it can't be read: {error}"
        delivery = self.ignored(pending, reason)
        self.context.stores.deliveries.keep_new([delivery])
        return Taken(delivery=delivery)

    def _put_off(self, walk: Walk, pending: PendingDelivery, patience_s: float) -> None:
        log = structlog.get_logger().bind(delivery=pending.guid, tries=[*pending.ids])
        is_new = pending.guid not in self.postponed.guids()
        now = self.github_now()
        if not self.postponed.put_off(pending, now=now, patience_s=patience_s):
            reason = (
                f"GitHub lists it and hasn't handed it out for {duration(patience_s)}"
            )
            log.warning("github_delivery_lost", reason=reason)
        elif is_new:
            log.info("github_delivery_put_off")
        del walk.pending[pending.guid]

    def ignored(self, about: Listed | PendingDelivery, reason: str) -> Delivery:
        """Return the delivery to store for an event that makes no job, with the reason."""
        return Delivery(
            target=self.settings.target,
            id=about.guid,
            event=about.event,
            action=about.action,
            installation=about.installation,
            received_at=self.context.now(),
            routing=reason,
            state="ignored",
        )

    @property
    def ahead_s(self) -> float:
        """Lead of GitHub's clock over the hub's, by GitHub's newest answer (seconds)."""
        return self.client.credentials.transport.ahead_s

    def github_now(self) -> float:
        """Return the time by GitHub's clock."""
        return self.context.now() + self.ahead_s
