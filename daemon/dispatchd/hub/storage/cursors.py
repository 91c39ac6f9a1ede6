"""Marks in the database: named texts, such as the state that a loop needs after a restart; and places in its lists."""

from math import isfinite
from typing import Final, Self

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
)

from dispatchd.hub.storage.database import Database, upsert
from dispatchd.hub.storage.schema import MARKS

_NAMED: Final = MARKS.c.name == bindparam("of_name")
_VALUE: Final = select(MARKS.c.value).where(_NAMED)
_DELETE: Final = delete(MARKS).where(_NAMED)

_LOOKED_AT: Final = 100
"""Marks of a kind on each side of a new one of which those are removed whose time is over (count)."""

_DIGITS: Final = 12
"""Length of a time that is stored as a text (digits)."""


def _first(start: str, end: str) -> Select[tuple[str]]:
    """Return the query of the first names from one text on that come before another one."""
    name = MARKS.c.name
    query = select(name).where(name >= start, name < end)
    return query.order_by(name).limit(_LOOKED_AT)


@frozen
class MarkStore:
    """Marks of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def get(self, name: str) -> str:
        """Return the text of a mark; empty if there is none."""
        with self._database.look() as db:
            return db.execute(_VALUE, {"of_name": name}).scalar() or ""

    def remove(self, db: Connection, name: str) -> bool:
        """Remove a mark within a transaction; return whether there was one."""
        return bool(db.execute(_DELETE, {"of_name": name}).rowcount)

    def put_until(self, kind: str, name: str, at: float, *, now: float) -> bool:
        """Store a mark of a kind until a time, and remove some of the kind whose time is over; False if it is there already.

        `kind` is the prefix of their names, with a space at its end; times are seconds since the epoch. Strangers have
        such marks made, so the work doesn't grow with the number of marks: names are random, so those that are looked at
        are others each time.
        """
        # Texts of one length sort as their times do.
        over = MARKS.c.value < f"{int(now):0{_DIGITS}d}"
        value = f"{int(at) + 1:0{_DIGITS}d}"
        looked_at = (
            _first(kind, f"{kind}{name}"),
            _first(f"{kind}{name}", f"{kind.removesuffix(' ')}!"),
        )

        def work(db: Connection) -> bool:
            for names in looked_at:
                db.execute(delete(MARKS).where(MARKS.c.name.in_(names), over))
            made = upsert(db, MARKS).values(name=f"{kind}{name}", value=value)
            return db.execute(made.on_conflict_do_nothing()).rowcount > 0

        return self._database.write(work)

    def add(self, db: Connection, name: str, value: str) -> None:
        """Store a new mark within a transaction."""
        db.execute(insert(MARKS).values(name=name, value=value))

    def put(self, name: str, value: str) -> None:
        """Store a mark; it replaces one with the same name."""

        def work(db: Connection) -> None:
            made = upsert(db, MARKS).values(name=name, value=value)
            changed = {"value": made.excluded.value}
            db.execute(
                made.on_conflict_do_update(index_elements=[MARKS.c.name], set_=changed)
            )

        self._database.write(work)


@frozen(kw_only=True)
class Cursor:
    """Place of an entry in a list by time, for the next page: what comes meanwhile moves nothing.

    It is the entry's time (seconds since the epoch), and its id among those of that time.
    """

    at: float
    id: str

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Return the place that an address names; None for any other text."""
        at, mark, entry_id = text.partition("~")
        try:
            seconds = float(at)
        except ValueError:
            return None
        return cls(at=seconds, id=entry_id) if mark and isfinite(seconds) else None

    @property
    def text(self) -> str:
        """Text for an address, from which `read` makes the place again."""
        return f"{self.at!r}~{self.id}"

    def older(
        self, at: ColumnElement[float], entry_id: ColumnElement[str]
    ) -> ColumnElement[bool]:
        """Return the condition of the entries after it in a list that begins with the newest one."""
        return or_(at < self.at, and_(at == self.at, entry_id < self.id))
