"""Audit list in the database: the changes that people and tokens have made."""

from secrets import token_urlsafe

from attrs import asdict, frozen
from sqlalchemy import Connection, delete, insert, select

from dispatchd.hub.auth.audit import Change
from dispatchd.hub.storage.cursors import Cursor
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.schema import AUDIT


def add_change(db: Connection, change: Change, *, now: float) -> None:
    """Store a change in the transaction that makes it."""
    row = {"id": token_urlsafe(12), "at": now, **asdict(change)}
    db.execute(insert(AUDIT).values(row))


@frozen
class AuditList:
    """Audit list of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def add(self, change: Change, *, now: float) -> None:
        """Store a change."""
        self._database.write(lambda db: add_change(db, change, now=now))

    def newest(
        self, most: int, before: Cursor | None = None
    ) -> list[tuple[Cursor, Change]]:
        """Return the newest changes, newest first, each with its place in the list.

        Args:
            most: Most of them (count).
            before: The change before which they were made; None for any.
        """
        query = select(AUDIT).order_by(AUDIT.c.at.desc(), AUDIT.c.id.desc()).limit(most)
        if before is not None:
            query = query.where(before.older(AUDIT.c.at, AUDIT.c.id))
        with self._database.snapshot() as db:
            rows = [dict(row) for row in db.execute(query).mappings()]
        return [
            (
                Cursor(at=row["at"], id=row["id"]),
                Change(**{k: v for k, v in row.items() if k not in {"at", "id"}}),
            )
            for row in rows
        ]

    def prune(self, *, before: float) -> None:
        """Remove the changes that were made before a time (seconds since the epoch)."""
        old = delete(AUDIT).where(AUDIT.c.at < before)
        self._database.write(lambda db: db.execute(old).rowcount)
