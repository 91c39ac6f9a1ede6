"""Tables of the hub's development version. It had no migrations, and made missing tables itself."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_WORDS: Final = (
    *("document", "state", "machine", "token_hash", "run_id", "phase", "reason"),
    *("progress", "result_status", "result_summary", "result_cause", "result_output"),
)
_TIMES: Final = (
    "lease_until",
    "created_at",
    "claimed_at",
    "accepted_at",
    "finished_at",
)
_NUMBERS: Final = ("cancel_requested", "deliveries", "accepts", "finishes")


def upgrade() -> None:
    """Make missing tables."""
    if sa.inspect(op.get_bind()).has_table("jobs"):
        return
    op.create_table(
        "jobs",
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("urgent", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in _WORDS),
        *(sa.Column(name, sa.Double, nullable=False) for name in _TIMES),
        *(sa.Column(name, sa.Integer, nullable=False) for name in _NUMBERS),
    )
    op.create_table(
        "texts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
