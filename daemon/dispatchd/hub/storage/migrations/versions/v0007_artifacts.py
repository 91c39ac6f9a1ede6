"""Artifacts of jobs."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0007"
down_revision: Final = "0006"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table, with its indexes."""
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        _text("path"),
        sa.Column("size", _BIG, nullable=False, server_default="0"),
        _text("sha256"),
        _text("machine"),
        sa.Column("claim", _BIG, nullable=False, server_default="0"),
        sa.Column("attempt", _BIG, nullable=False, server_default="0"),
        sa.Column("listed_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("stored_at", sa.Double, nullable=False, server_default="0"),
        _text("refused"),
    )
    op.create_index("artifacts_by_hash", "artifacts", ["sha256"])
    op.create_index("artifacts_by_time", "artifacts", ["listed_at"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")
