"""Bodies that webhooks have brought: the id of a delivery isn't signed, so a body that comes under another one is a replay.

Kept as marks, by the hash of the body, for as long as the deliveries of hooks.
"""

from typing import Final

from sqlalchemy import Connection, delete, select

from dispatchd.hub.database import upsert
from dispatchd.hub.schema import MARKS

_PREFIX: Final = "webhook body "
_BEHIND: Final = "webhook body!"
"""What comes after every name with the prefix."""

_REPEATED: Final = frozenset(
    ("workflow_dispatch", "repository_dispatch", "check_run", "check_suite", "ping")
)
"""Events that people cause once more with the same payload to the byte: nothing in it says when they did."""


def first_delivery(
    db: Connection, payload_hash: str, delivery_id: str, event: str
) -> str:
    """Return under which other delivery id a body has come before; empty if it is new, or may come again."""
    query = select(MARKS.c.value).where(MARKS.c.name == _PREFIX + payload_hash)
    value = db.execute(query).scalar()
    if value is None:
        return ""
    _, before, first = str(value).split(" ", 2)
    # The name of the event isn't signed either.
    may_come_again = event == before and event in _REPEATED
    return "" if first == delivery_id or may_come_again else first


def note_body(
    db: Connection, payload_hash: str, delivery_id: str, event: str, *, now: float
) -> None:
    """Keep that a body has come, unless that is known."""
    insert = upsert(db, MARKS).values(
        name=_PREFIX + payload_hash, value=f"{_time(now)} {event} {delivery_id}"
    )
    db.execute(insert.on_conflict_do_nothing())


def forget_bodies(db: Connection, before: float) -> None:
    """Forget those that came before some time."""
    old = (
        MARKS.c.name > _PREFIX,
        MARKS.c.name < _BEHIND,
        MARKS.c.value < _time(before),
    )
    db.execute(delete(MARKS).where(*old))


def _time(at: float) -> str:
    """Return a time so that texts are in the order of times (seconds since the epoch)."""
    return f"{max(0, int(at)):012d}"
