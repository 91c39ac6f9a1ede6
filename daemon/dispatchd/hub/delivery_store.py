"""Durable deliveries: each event that came in, and what became of it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import asdict, evolve, frozen
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from dispatchd.hub.database import Database
from dispatchd.hub.model import Delivery
from dispatchd.hub.schema import DELIVERIES

_DELIVERY: Final = DELIVERIES.c
_SAME: Final = and_(
    _DELIVERY.target == bindparam("of_target"), _DELIVERY.id == bindparam("of_id")
)
_KNOWN: Final = select(_DELIVERY.id).where(_SAME)
_OF_ID: Final = select(DELIVERIES).where(_DELIVERY.id == bindparam("of_id"))
_INSERT: Final = insert(DELIVERIES)
_INSERT_ONCE: Final = (
    postgresql_insert(DELIVERIES).on_conflict_do_nothing().returning(_DELIVERY.id)
)
_UPDATE: Final = update(DELIVERIES).where(_SAME)


@frozen
class DeliveryStore:
    """The deliveries of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def keep(self, delivery: Delivery) -> None:
        """Keep a delivery, in place of what is kept of the same hook and id."""
        with self._database.transaction() as db:
            keep_delivery(db, delivery)

    def get(self, delivery_id: str) -> Delivery | None:
        """Return the newest delivery of an id, or None."""
        query = select(DELIVERIES).where(_DELIVERY.id == delivery_id)
        with self._database.snapshot() as db:
            newest = query.order_by(_DELIVERY.received_at.desc()).limit(1)
            row = db.execute(newest).mappings().first()
            return None if row is None else _read(row)

    def known(self, target: str, ids: list[str]) -> set[str]:
        """Return which of some ids are those of deliveries of a hook."""
        query = select(_DELIVERY.id).where(
            _DELIVERY.target == target, _DELIVERY.id.in_(ids)
        )
        with self._database.snapshot() as db:
            return set(db.execute(query).scalars())

    def keep_new(self, deliveries: Iterable[Delivery]) -> None:
        """Keep those of some deliveries that aren't known."""
        with self._database.transaction() as db:
            for each in deliveries:
                insert_delivery(db, each, shared=self._database.is_shared)

    def list(self, limit: int) -> list[Delivery]:
        """Return the newest deliveries, oldest of them first."""
        query = select(DELIVERIES).order_by(_DELIVERY.received_at.desc())
        with self._database.snapshot() as db:
            rows = db.execute(query.limit(limit)).mappings().all()
            return [_read(row) for row in reversed(rows)]

    def prune(self, *, before: float, of_hooks_before: float) -> int:
        """Remove deliveries that came in before some time; return how many.

        Args:
            before: The time, for those that a submit has named.
            of_hooks_before: The time for those that a hook has brought, which may come again.
        """
        of_hook = _DELIVERY.target != ""
        old = or_(
            and_(~of_hook, _DELIVERY.received_at < before),
            and_(of_hook, _DELIVERY.received_at < of_hooks_before),
        )
        with self._database.transaction() as db:
            return db.execute(delete(DELIVERIES).where(old)).rowcount


def keep_delivery(db: Connection, delivery: Delivery) -> None:
    """Keep a delivery together with what else a transaction keeps, in place of the same one."""
    if db.execute(_KNOWN, _key(delivery)).first():
        db.execute(_UPDATE.values(_values(delivery)), _key(delivery))
    else:
        db.execute(_INSERT, _values(delivery))


def insert_delivery(db: Connection, delivery: Delivery, *, shared: bool) -> bool:
    """Keep a new delivery together with what else a transaction keeps; False if it is known.

    Args:
        db: The transaction.
        delivery: The delivery.
        shared: Whether other processes may do the same at the same time.
    """
    if shared:
        return db.execute(_INSERT_ONCE, _values(delivery)).first() is not None
    # Nobody else can write between these two.
    if db.execute(_KNOWN, _key(delivery)).first():
        return False
    db.execute(_INSERT, _values(delivery))
    return True


def add_again(db: Connection, delivery_id: str, job_id: str, again_id: str) -> None:
    """Add to the jobs of a delivery one that is one of them once more."""
    for found in _with_job(db, delivery_id, job_id):
        keep_delivery(db, evolve(found, job_ids=(*found.job_ids, again_id)))


def amend_routing(db: Connection, delivery_id: str, job_id: str, words: str) -> None:
    """Add to what was decided about a delivery what has become of one of its jobs."""
    for found in _with_job(db, delivery_id, job_id):
        keep_delivery(db, evolve(found, routing=f"{found.routing}; {words}"))


def _with_job(db: Connection, delivery_id: str, job_id: str) -> list[Delivery]:
    rows = db.execute(_OF_ID, {"of_id": delivery_id}).mappings().all()
    return [found for row in rows if job_id in (found := _read(row)).job_ids]


def _key(delivery: Delivery) -> dict[str, str]:
    return {"of_target": delivery.target, "of_id": delivery.id}


def _values(delivery: Delivery) -> dict[str, Any]:
    return {**asdict(delivery), "job_ids": json.dumps(delivery.job_ids)}


def _read(row: Mapping[Any, Any]) -> Delivery:
    found = Delivery(**row)
    return evolve(found, job_ids=tuple(json.loads(str(row["job_ids"]) or "[]")))
