"""Size of each job, so that the queue is limited in bytes, too."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from dispatchd.hub.storage.migrations.fill import Fill, count

revision: Final = "0004"
down_revision: Final = "0003"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_WAITING: Final = ("received", "queued")


def upgrade() -> None:
    """Add the size."""
    op.add_column("jobs", sa.Column("size", _BIG, nullable=False, server_default="0"))


def _tables(db: sa.Connection) -> tuple[sa.Table, sa.Table]:
    metadata = sa.MetaData()
    return sa.Table("jobs", metadata, autoload_with=db), sa.Table(
        "texts", metadata, autoload_with=db
    )


def _count(db: sa.Connection, after: int) -> int:
    jobs, _ = _tables(db)
    return count(db, jobs, jobs.c.state.in_(_WAITING), after=after)


def _change(db: sa.Connection, after: int, most: int) -> list[int]:
    """Compute the size of waiting jobs, in characters, which is close enough for them."""
    jobs, texts = _tables(db)
    waiting = jobs.c.state.in_(_WAITING)
    part = sa.select(jobs.c.position).where(waiting, jobs.c.position > after)
    rows = db.execute(part.order_by(jobs.c.position).limit(most))
    positions = list(rows.scalars())
    if positions:
        length = sa.func.length(texts.c.payload) + sa.func.length(texts.c.headers)
        own = sa.select(length).where(texts.c.id == jobs.c.id).scalar_subquery()
        here = jobs.c.position.between(positions[0], positions[-1])
        write = sa.update(jobs).where(waiting, here)
        db.execute(write.values(size=sa.func.coalesce(own, 0)))
    return positions


def _finish(db: sa.Connection) -> None:
    of = _tables(db)[0].c
    sa.Index("jobs_by_size", of.state, of.size).create(db)


FILL: Final = Fill(count=_count, change=_change, finish=_finish)
