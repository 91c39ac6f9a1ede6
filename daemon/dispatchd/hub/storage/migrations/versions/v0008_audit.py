"""Audit list."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0008"
down_revision: Final = "0007"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table, with its index."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False, server_default="0"),
        _text("who"),
        _text("method"),
        _text("path"),
        sa.Column("status", _BIG, nullable=False, server_default="0"),
        _text("address"),
    )
    op.create_index("audit_by_time", "audit", ["at"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")
