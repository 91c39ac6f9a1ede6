"""Size of each job, so that the queue is limited in bytes, too."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_WAITING: Final = ("received", "queued")


def upgrade() -> None:
    """Add the size, and compute that of the waiting jobs."""
    op.add_column("jobs", sa.Column("size", _BIG, nullable=False, server_default="0"))
    db = op.get_bind()
    jobs, texts = (
        sa.Table(name, sa.MetaData(), autoload_with=db) for name in ("jobs", "texts")
    )
    # In characters, which is close enough for jobs that wait already.
    length = sa.func.length(texts.c.payload) + sa.func.length(texts.c.headers)
    own = sa.select(length).where(texts.c.id == jobs.c.id).scalar_subquery()
    waiting = sa.update(jobs).where(jobs.c.state.in_(_WAITING))
    db.execute(waiting.values(size=sa.func.coalesce(own, 0)))
    op.create_index("jobs_by_size", "jobs", ["state", "size"])
