"""Durable marks: what a loop has to know after a restart, as one text under a name."""

from typing import Final

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, insert, select

from dispatchd.hub.database import Database, upsert
from dispatchd.hub.schema import MARKS

_NAMED: Final = MARKS.c.name == bindparam("of_name")
_VALUE: Final = select(MARKS.c.value).where(_NAMED)
_DELETE: Final = delete(MARKS).where(_NAMED)

_DIGITS: Final = 12
"""Of a time that is kept as a text."""


@frozen
class MarkStore:
    """The marks of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def get(self, name: str) -> str:
        """Return the text of a mark, or an empty one."""
        with self._database.snapshot() as db:
            return db.execute(_VALUE, {"of_name": name}).scalar() or ""

    def remove(self, db: Connection, name: str) -> bool:
        """Remove a mark within a transaction; return whether it was there."""
        return bool(db.execute(_DELETE, {"of_name": name}).rowcount)

    def put_until(self, kind: str, name: str, at: float, *, now: float) -> None:
        """Keep a mark of a kind until some time, and remove those of the kind whose time is over.

        `kind` is what their names begin with; times in seconds since the epoch.
        """
        # As texts of one length, times are in the order of their digits.
        over = MARKS.c.value < f"{int(now):0{_DIGITS}d}"
        like = MARKS.c.name.startswith(kind, autoescape=True)
        value = f"{int(at) + 1:0{_DIGITS}d}"

        def work(db: Connection) -> None:
            db.execute(delete(MARKS).where(like, over))
            made = upsert(db, MARKS).values(name=f"{kind}{name}", value=value)
            db.execute(made.on_conflict_do_nothing())

        self._database.write(work)

    def add(self, db: Connection, name: str, value: str) -> None:
        """Keep a mark that isn't there, within a transaction."""
        db.execute(insert(MARKS).values(name=name, value=value))

    def put(self, name: str, value: str) -> None:
        """Keep a mark, in place of the one of that name."""

        def work(db: Connection) -> None:
            made = upsert(db, MARKS).values(name=name, value=value)
            changed = {"value": made.excluded.value}
            db.execute(
                made.on_conflict_do_update(index_elements=[MARKS.c.name], set_=changed)
            )

        self._database.write(work)
