"""Deliveries in the database: each received event, and the jobs that it made."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import asdict, evolve, frozen
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from dispatchd.hub.domain.model import Delivery
from dispatchd.hub.storage.cursors import Cursor
from dispatchd.hub.storage.database import Database, upsert
from dispatchd.hub.storage.schema import DELIVERIES
from dispatchd.hub.storage.seen_bodies import forget_bodies

_DELIVERY: Final = DELIVERIES.c
_SAME: Final = and_(
    _DELIVERY.target == bindparam("of_target"), _DELIVERY.id == bindparam("of_id")
)
_STORED: Final = select(_DELIVERY.id).where(_SAME)
_LOCKED: Final = select(DELIVERIES).where(_SAME).with_for_update()
_OF_ID: Final = (
    select(DELIVERIES)
    .where(_DELIVERY.id == bindparam("of_id"))
    .order_by(_DELIVERY.target)
    .with_for_update()
)
_UPDATE: Final = update(DELIVERIES).where(_SAME)


@frozen
class DeliveryStore:
    """Deliveries of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def get(self, delivery_id: str) -> Delivery | None:
        """Return the newest delivery of an id, of a hook before one that a submission named; or None."""
        query = select(DELIVERIES).where(_DELIVERY.id == delivery_id)
        of_hook = case((_DELIVERY.target != "", 0), else_=1)
        with self._database.snapshot() as db:
            newest = query.order_by(of_hook, _DELIVERY.received_at.desc()).limit(1)
            row = db.execute(newest).mappings().first()
            return None if row is None else _read(row)

    def known(self, target: str, ids: list[str]) -> set[str]:
        """Return those of some ids that are stored for a hook."""
        query = select(_DELIVERY.id).where(
            _DELIVERY.target == target, _DELIVERY.id.in_(ids)
        )
        with self._database.snapshot() as db:
            return set(db.execute(query).scalars())

    def keep_new(self, deliveries: Iterable[Delivery]) -> None:
        """Store those deliveries that aren't known."""

        def work(db: Connection) -> None:
            for delivery in deliveries:
                insert_delivery(db, delivery)

        self._database.write(work)

    def list(
        self, limit: int, before: Cursor | None = None, state: str = ""
    ) -> list[Delivery]:
        """Return the newest deliveries, sorted oldest first.

        Args:
            limit: Most of them (count).
            before: The delivery before which they came; None for any.
            state: Their state; empty for any.
        """
        newest = (_DELIVERY.received_at.desc(), _DELIVERY.id.desc())
        query = select(DELIVERIES).order_by(*newest)
        if before is not None:
            query = query.where(before.older(_DELIVERY.received_at, _DELIVERY.id))
        if state:
            query = query.where(_DELIVERY.state == state)
        with self._database.snapshot() as db:
            rows = db.execute(query.limit(limit)).mappings().all()
            return [_read(row) for row in reversed(rows)]

    def installations(self, most: int) -> dict[int, float]:
        """Return the installations of the newest deliveries, at most so many, each with the time of its newest one."""
        newest = (
            select(_DELIVERY.installation, _DELIVERY.received_at)
            .order_by(_DELIVERY.received_at.desc())
            .limit(most)
            .subquery()
        )
        of_newest = newest.c.installation
        query = select(of_newest, func.max(newest.c.received_at)).where(of_newest > 0)
        with self._database.snapshot() as db:
            rows = db.execute(query.group_by(of_newest)).all()
        return {int(installation): float(at) for installation, at in rows}

    def newest_of(self, targets: Iterable[str]) -> dict[str, Delivery]:
        """Return the newest delivery of each hook that has one, by the hook."""
        newest = select(DELIVERIES).order_by(_DELIVERY.received_at.desc()).limit(1)
        with self._database.snapshot() as db:
            rows = (
                db.execute(newest.where(_DELIVERY.target == target)).mappings().first()
                for target in targets
            )
            found = [_read(row) for row in rows if row is not None]
        return {delivery.target: delivery for delivery in found}

    def prune(self, *, before: float, of_hooks_before: float) -> int:
        """Remove deliveries that came before a time; return their number.

        Args:
            before: The time for those that a submission named (seconds since the epoch).
            of_hooks_before: The time for those of a hook, which may come again (seconds since the epoch).
        """
        of_hook = _DELIVERY.target != ""
        old = or_(
            and_(~of_hook, _DELIVERY.received_at < before),
            and_(of_hook, _DELIVERY.received_at < of_hooks_before),
        )

        def work(db: Connection) -> int:
            forget_bodies(db, of_hooks_before)
            return db.execute(delete(DELIVERIES).where(old)).rowcount

        return self._database.write(work)


def keep_delivery(db: Connection, delivery: Delivery) -> None:
    """Store a delivery within a transaction; it replaces one with the same hook and id."""
    if not insert_delivery(db, delivery):
        db.execute(_UPDATE.values(_values(delivery)), _key(delivery))


def add_delivery(db: Connection, delivery: Delivery) -> None:
    """Store a delivery within a transaction, with the jobs that it has already."""
    if insert_delivery(db, delivery):
        return
    row = db.execute(_LOCKED, _key(delivery)).mappings().one()
    jobs = (*_read(row).job_ids, *delivery.job_ids)
    keep_delivery(db, evolve(delivery, job_ids=tuple(dict.fromkeys(jobs))))


def insert_delivery(db: Connection, delivery: Delivery) -> bool:
    """Insert a new delivery within a transaction; return False if it is known."""
    insert = upsert(db, DELIVERIES).values(_values(delivery))
    new = insert.on_conflict_do_nothing().returning(_DELIVERY.id)
    return db.execute(new).first() is not None


def is_known(db: Connection, delivery: Delivery) -> bool:
    """Return within a transaction whether a delivery with the same hook and id is stored."""
    return db.execute(_STORED, _key(delivery)).first() is not None


def add_again(db: Connection, delivery_id: str, job_id: str, again_id: str) -> None:
    """Add to a delivery the job that runs one of its jobs again."""
    for delivery in _with_job(db, delivery_id, job_id):
        keep_delivery(db, evolve(delivery, job_ids=(*delivery.job_ids, again_id)))


def amend_routing(db: Connection, delivery_id: str, job_id: str, summary: str) -> None:
    """Add the result of one of its jobs to the routing of a delivery, in words."""
    for delivery in _with_job(db, delivery_id, job_id):
        keep_delivery(db, evolve(delivery, routing=f"{delivery.routing}; {summary}"))


def _with_job(db: Connection, delivery_id: str, job_id: str) -> list[Delivery]:
    rows = db.execute(_OF_ID, {"of_id": delivery_id}).mappings().all()
    return [delivery for row in rows if job_id in (delivery := _read(row)).job_ids]


def _key(delivery: Delivery) -> dict[str, str]:
    return {"of_target": delivery.target, "of_id": delivery.id}


def _values(delivery: Delivery) -> dict[str, Any]:
    return {**asdict(delivery), "job_ids": json.dumps(delivery.job_ids)}


def _read(row: Mapping[Any, Any]) -> Delivery:
    delivery = Delivery(**row)
    return evolve(delivery, job_ids=tuple(json.loads(str(row["job_ids"]) or "[]")))
