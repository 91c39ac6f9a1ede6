"""Decisions of people about parked jobs, what machines call the stays of these in `needs_attention`, and since when they are parked."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0009"
down_revision: Final = "0008"


def upgrade() -> None:
    """Add the columns."""
    for name in ("parked", "decision"):
        column: sa.Column[str] = sa.Column(
            name, sa.Text, nullable=False, server_default=""
        )
        op.add_column("jobs", column)
    # Of a job that is parked already the time isn't known.
    since: sa.Column[float] = sa.Column(
        "parked_at", sa.Double, nullable=False, server_default="0"
    )
    op.add_column("jobs", since)
