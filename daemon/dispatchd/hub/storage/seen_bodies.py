"""Replay protection of webhooks. Neither the id of a delivery nor its hook is signed, so a body that comes again is a replay.

Bodies are stored as marks, by their hash, for as long as the deliveries of webhooks.
"""

from typing import Final

from attrs import frozen
from sqlalchemy import Connection, delete, select

from dispatchd.hub.storage.database import upsert
from dispatchd.hub.storage.schema import MARKS

_PREFIX: Final = "webhook body "
_BEHIND: Final = "webhook body!"
"""First name after those with the prefix, in the order of names."""

_REPEATED: Final = frozenset(
    ("workflow_dispatch", "repository_dispatch", "check_run", "check_suite", "ping")
)
"""Events that people can cause again with the same payload, byte for byte: it has no time in it."""


def first_delivery(db: Connection, payload_hash: str, event: str) -> str:
    """Return the delivery id under which a body came first; empty if it is new, or may come again."""
    query = select(MARKS.c.value).where(MARKS.c.name == _PREFIX + payload_hash)
    value = db.execute(query).scalar()
    if value is None:
        return ""
    _, before, first = str(value).split(" ", 2)
    # The name of the event isn't signed either.
    may_come_again = event == before and event in _REPEATED
    return "" if may_come_again else first


def note_body(
    db: Connection, payload_hash: str, delivery_id: str, event: str, *, now: float
) -> None:
    """Store that a body has come, unless it is known."""
    insert = upsert(db, MARKS).values(
        name=_PREFIX + payload_hash, value=f"{_time(now)} {event} {delivery_id}"
    )
    db.execute(insert.on_conflict_do_nothing())


@frozen(kw_only=True)
class SeenBody:
    """First delivery of a body by a hook."""

    at: float
    """Time at which it came (seconds since the epoch)."""
    delivery_id: str


def seen_body(db: Connection, hook: str, payload_hash: str) -> SeenBody | None:
    """Return the first delivery of a body by a hook beside GitHub's; None if it is new."""
    query = select(MARKS.c.value).where(MARKS.c.name == _name(hook, payload_hash))
    value = db.execute(query).scalar()
    if value is None:
        return None
    at, _, delivery_id = str(value).partition(" ")
    return SeenBody(at=float(at), delivery_id=delivery_id)


def note_seen_body(
    db: Connection, hook: str, payload_hash: str, delivery_id: str, *, now: float
) -> None:
    """Store a body of a hook beside GitHub's; it replaces what was stored of that body."""
    made = upsert(db, MARKS).values(
        name=_name(hook, payload_hash), value=f"{_time(now)} {delivery_id}"
    )
    changed = {"value": made.excluded.value}
    db.execute(made.on_conflict_do_update(index_elements=[MARKS.c.name], set_=changed))


def _name(hook: str, payload_hash: str) -> str:
    # With a space, which no hash has: GitHub's bodies have other names.
    return f"{_PREFIX}{hook} {payload_hash}"


def forget_bodies(db: Connection, before: float) -> None:
    """Delete the bodies that came before a time (seconds since the epoch)."""
    old = (
        MARKS.c.name > _PREFIX,
        MARKS.c.name < _BEHIND,
        MARKS.c.value < _time(before),
    )
    db.execute(delete(MARKS).where(*old))


def _time(at: float) -> str:
    """Return a time (seconds since the epoch) as a text that sorts as times do."""
    return f"{max(0, int(at)):012d}"
