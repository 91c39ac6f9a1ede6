"""Origin of requeued jobs: which job each of them runs again, stored as a mark for as long as the new job."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from dispatchd.hub.storage.schema import MARKS

_PREFIX: Final = "requeued as "


def note_requeue(db: Connection, new_id: str, job_id: str) -> None:
    """Store within a transaction that a new job runs another one again."""
    forget_requeues(db, [new_id])
    db.execute(insert(MARKS).values(name=_PREFIX + new_id, value=job_id))


def requeued_of(db: Connection, new_id: str) -> str:
    """Return the id of the job that a job runs again; empty if it wasn't made by a requeue."""
    query = select(MARKS.c.value).where(MARKS.c.name == _PREFIX + new_id)
    return db.execute(query).scalar() or ""


def forget_requeues(db: Connection, new_ids: Collection[str]) -> None:
    """Delete within a transaction what jobs run again."""
    names = [_PREFIX + new_id for new_id in new_ids]
    db.execute(delete(MARKS).where(MARKS.c.name.in_(names)))
