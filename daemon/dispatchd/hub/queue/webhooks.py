"""Deliveries of webhooks beside GitHub's: each is stored with its job in one transaction, before its sender gets an answer.

Comes from `hub/api/webhooks.py`, decides by `hub/domain/webhooks/`, goes to `hub/queue/submit.py`. The same delivery a
second time changes nothing: it has the same hook and id, or, where the id proves nothing, the same body.
"""

from typing import Final

from attrs import evolve, frozen
from sqlalchemy import Connection

from dispatchd.hub.config.webhooks import Webhook
from dispatchd.hub.context import Context
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.model import Delivery, HubJob, Submission
from dispatchd.hub.domain.webhooks.delivery import (
    Event,
    id_of_body,
    is_in_window,
    job_id_of,
    reason_against,
)
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.storage.database import lock
from dispatchd.hub.storage.deliveries import (
    insert_delivery,
    is_known,
    keep_delivery,
)
from dispatchd.hub.storage.seen_bodies import note_seen_body, seen_body

_HAS_JOB: Final = "its job is there already"


@frozen(kw_only=True)
class Arrival:
    """A delivery that has come in from its sender; payload and headers are exact JSON texts."""

    webhook: Webhook
    event: Event
    payload: str
    headers: str
    payload_hash: str


@frozen(kw_only=True)
class Taken:
    """Result of an arrival."""

    delivery: Delivery
    is_duplicate: bool = False
    replay_of: str = ""
    """Id of the delivery with which the same body came first, if that has another one."""
    job: HubJob | None = None


@frozen
class WebhookInbox:
    """Inbox of a hub for webhooks beside GitHub's.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    context: Context
    submissions: Submissions

    def take(self, arrival: Arrival) -> Taken:
        """Store a delivery and its job; do nothing if it is known.

        Raises:
            JobTooLarge: No machine could read the job.
            QueueFull: The queue is full.
        """
        database = self.context.stores.database
        return database.write(lambda db: self._take(db, arrival))

    def _take(self, db: Connection, arrival: Arrival) -> Taken:
        webhook, event = arrival.webhook, arrival.event
        now = self.context.now()
        hook, body = webhook.name, arrival.payload_hash
        form, window_s = webhook.form, webhook.body_window_s
        delivery = Delivery(
            target=webhook.target,
            id=event.id or id_of_body(hook, body, window_s=window_s, at=now),
            event=event.name,
            action=event.action,
            repository=event.repository,
            payload_hash=body,
            received_at=now,
        )
        if not event.id or not form.is_id_signed:
            lock(db, f"{webhook.target} {body}")
            first = seen_body(db, hook, body)
            if first is not None and (
                not form.is_id_signed or is_in_window(first.at, now, window_s)
            ):
                is_repeat = not event.id or is_known(db, delivery)
                replay_of = "" if is_repeat else first.delivery_id
                return Taken(delivery=delivery, is_duplicate=True, replay_of=replay_of)
            note_seen_body(db, hook, body, delivery.id, now=now)
        reason = reason_against(webhook.wanted, event)
        delivery = evolve(
            delivery,
            routing=reason or f"workflow {webhook.workflow}",
            state="ignored" if reason else "done",
        )
        if not insert_delivery(db, delivery):
            return Taken(delivery=delivery, is_duplicate=True)
        if reason:
            return Taken(delivery=delivery)
        job = self.submissions.admit(db, submission_of(arrival, delivery.id))
        if job is None:
            # The delivery was pruned, or is newer than the backup that the hub was restored from.
            delivery = evolve(delivery, routing=_HAS_JOB)
        else:
            delivery = evolve(delivery, state="queued", job_ids=(job.id,))
        keep_delivery(db, delivery)
        return Taken(delivery=delivery, job=job)


def submission_of(arrival: Arrival, delivery_id: str) -> Submission:
    """Return the submission of the job that a delivery asks for."""
    webhook, event = arrival.webhook, arrival.event
    job_id = job_id_of(webhook.name, delivery_id)
    document = JobDocument.of(
        id=job_id,
        workflow=webhook.workflow,
        event=event.name,
        action=event.action,
        delivery_id=delivery_id,
        repository=event.repository,
        rule=webhook.name,
        ref=event.ref,
        sha=event.sha,
        pull_request=event.pull_request,
        actor=event.actor,
        from_fork=event.from_fork,
    )
    return Submission(
        id=job_id,
        document=document.without_empty(),
        payload=arrival.payload,
        headers=arrival.headers,
        priority=webhook.priority,
        event_at=event.changed_at,
    )
