"""Release, slots and free space of machines, as they say with their pulls."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0010"
down_revision: Final = "0009"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the columns."""
    version: sa.Column[str] = sa.Column(
        "version", sa.Text, nullable=False, server_default=""
    )
    op.add_column("machines", version)
    for name in ("slots", "free_bytes"):
        number = sa.Column(name, _BIG, nullable=False, server_default="0")
        op.add_column("machines", number)
