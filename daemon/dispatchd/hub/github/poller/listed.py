"""Deliveries in GitHub's API: an entry of the list, and the event of a delivery that was fetched.

Source: GitHub docs, "REST API endpoints for GitHub App webhooks"; the schemas hook-delivery-item and hook-delivery
of its OpenAPI description. Times are seconds since the epoch by GitHub's clock.
"""

import json
from hashlib import sha256
from http import HTTPStatus

from attrs import frozen

from dispatchd.errors import ContractViolation, DispatchdError
from dispatchd.hub.github.event import clean, read_event
from dispatchd.hub.github.ingest.inbox import Arrival
from dispatchd.hub.github.ingest.webhook import kept_headers
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import at, number, text
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import parse_time


@frozen(kw_only=True)
class Listed:
    """An entry of the list: one attempt to deliver an event."""

    id: int
    """Id of the attempt: 12 digits until February 2026, 19 since then, so the order of ids isn't that of ages."""
    guid: str
    """Id of the event, the same for every attempt."""
    delivered_at: float
    event: str = ""
    action: str = ""
    """Action of the event; empty where it has none, or the list leaves it out."""
    installation: int = 0
    status_code: int = 0
    """Status of the webhook's answer; 0 where it couldn't be reached."""

    @property
    def was_taken(self) -> bool:
        """True if the webhook's answer was a success."""
        return HTTPStatus.OK <= self.status_code < HTTPStatus.MULTIPLE_CHOICES


class Unreadable(DispatchdError):
    """Event that can't be parsed, with the reason."""


def read_page(items: list[dict[str, Json]], *, now: float) -> list[Listed]:
    """Return the entries of a page in its order.

    An entry without id or GUID can't be fetched, and is left out. An entry with an invalid time gets that of the entry
    before it; the first one gets `now`.
    """
    entries: list[Listed] = []
    for item in items:
        listed = _read(item, entries[-1].delivered_at if entries else now)
        if listed is not None:
            entries.append(listed)
    return entries


def _read(item: Json, otherwise: float) -> Listed | None:
    delivery_id, guid = number(item, "id"), clean(text(item, "guid").strip())
    if not delivery_id or not guid:
        return None
    return Listed(
        id=delivery_id,
        guid=guid,
        delivered_at=_delivered_at(text(item, "delivered_at"), otherwise),
        event=clean(text(item, "event")),
        action=clean(text(item, "action")),
        installation=max(number(item, "installation_id") or 0, 0),
        status_code=number(item, "status_code") or 0,
    )


def _delivered_at(given: str, otherwise: float) -> float:
    delivered_at = parse_time(given)
    return otherwise if delivered_at is None else delivered_at


def has_payload(document: Json) -> bool:
    """Return whether a delivery that was fetched has its payload; GitHub may have it later."""
    return at(document, "request", "payload") not in (None, "")


def arrival(target: str, guid: str, event: str, document: Json) -> Arrival:
    """Return the event of a delivery that was fetched.

    Args:
        target: The hook (`Delivery.target`).
        guid: The event's id.
        event: The event's name, for a document without one.
        document: The delivery, as GitHub's API has it; the payload is an object, or its text.

    Raises:
        Unreadable: Its payload is no JSON object.
    """
    given = at(document, "request", "payload")
    payload_text = given if isinstance(given, str) else _as_text(given)
    try:
        payload = loads(payload_text)
        if not _is_unicode(payload_text):
            payload_text = _as_text(payload)
    except ContractViolation as error:
        message = f"its payload is not JSON ({error.rule})"
        raise Unreadable(message) from error
    if not isinstance(payload, dict):
        message = "its payload is no JSON object"
        raise Unreadable(message)
    return Arrival(
        target=target,
        id=guid,
        event=read_event(text(document, "event") or event, payload),
        payload=payload_text.removeprefix("\ufeff"),
        headers=_headers(at(document, "request", "headers")),
        payload_hash=sha256(payload_text.encode()).hexdigest(),
    )


def _as_text(payload: Json) -> str:
    """Return a payload as GitHub would send it: without spaces, and in UTF-8 where possible."""
    written = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    # Half of a surrogate pair can only be written as an escape.
    return (
        written if _is_unicode(written) else json.dumps(payload, separators=(",", ":"))
    )


def _is_unicode(written: str) -> bool:
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True


def _headers(given: Json) -> str:
    headers = given if isinstance(given, dict) else {}
    return kept_headers({name: str(value) for name, value in headers.items()})
