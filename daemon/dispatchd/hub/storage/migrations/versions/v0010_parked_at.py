"""Time since which a job is parked: a comment that was written before decides nothing about it."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0010"
down_revision: Final = "0009"


def upgrade() -> None:
    """Add the column; of a job that is parked already the time isn't known."""
    column: sa.Column[float] = sa.Column(
        "parked_at", sa.Double, nullable=False, server_default="0"
    )
    op.add_column("jobs", column)
