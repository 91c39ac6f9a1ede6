"""Durable deliveries: each event that came in, and what became of it."""

from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, delete, insert, select, update

from dispatchd.hub.database import Database
from dispatchd.hub.model import Delivery
from dispatchd.hub.schema import DELIVERIES

_DELIVERY: Final = DELIVERIES.c


@frozen
class DeliveryStore:
    """The deliveries of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def keep(self, delivery: Delivery) -> None:
        """Keep a delivery, in place of what is kept of the same id."""
        with self._database.transaction() as db:
            keep_delivery(db, delivery)

    def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery, or None."""
        with self._database.snapshot() as db:
            query = select(DELIVERIES).where(_DELIVERY.id == delivery_id)
            row = db.execute(query).mappings().first()
            return None if row is None else Delivery(**row)

    def list(self, limit: int) -> list[Delivery]:
        """Return the newest deliveries, oldest of them first."""
        query = select(DELIVERIES).order_by(_DELIVERY.received_at.desc())
        with self._database.snapshot() as db:
            rows = db.execute(query.limit(limit)).mappings().all()
            return [Delivery(**row) for row in reversed(rows)]

    def prune(self, *, before: float) -> int:
        """Remove deliveries that came in before some time; return how many."""
        with self._database.transaction() as db:
            old = delete(DELIVERIES).where(_DELIVERY.received_at < before)
            return db.execute(old).rowcount


def keep_delivery(db: Connection, delivery: Delivery) -> None:
    """Keep a delivery together with what else a transaction keeps."""
    known = select(_DELIVERY.id).where(_DELIVERY.id == delivery.id)
    if db.execute(known).first():
        kept = update(DELIVERIES).where(_DELIVERY.id == delivery.id)
        db.execute(kept.values(asdict(delivery)))
    else:
        db.execute(insert(DELIVERIES), asdict(delivery))
