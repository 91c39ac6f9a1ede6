"""Marks in the database: named texts, such as the state that a loop needs after a restart."""

from typing import Final

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, insert, select

from dispatchd.hub.storage.database import Database, upsert
from dispatchd.hub.storage.schema import MARKS

_NAMED: Final = MARKS.c.name == bindparam("of_name")
_VALUE: Final = select(MARKS.c.value).where(_NAMED)
_DELETE: Final = delete(MARKS).where(_NAMED)

_DIGITS: Final = 12
"""Length of a time that is stored as a text (digits)."""


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
        """Store a mark of a kind until a time, and remove those of the kind whose time is over; False if it is there already.

        `kind` is the prefix of their names; times are seconds since the epoch.
        """
        # Texts of one length sort as their times do.
        over = MARKS.c.value < f"{int(now):0{_DIGITS}d}"
        like = MARKS.c.name.startswith(kind, autoescape=True)
        value = f"{int(at) + 1:0{_DIGITS}d}"

        def work(db: Connection) -> bool:
            db.execute(delete(MARKS).where(like, over))
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
