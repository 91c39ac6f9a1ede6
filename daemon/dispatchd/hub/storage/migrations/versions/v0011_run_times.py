"""Times at which the hub first heard that a job runs, and that its run has ended."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0011"
down_revision: Final = "0010"


def upgrade() -> None:
    """Add the columns. Of jobs of before the times aren't known."""
    for name in ("started_at", "run_ended_at"):
        column: sa.Column[float] = sa.Column(
            name, sa.Double, nullable=False, server_default="0"
        )
        op.add_column("jobs", column)
