"""Indexes of jobs by their number alone, because a renamed repository has jobs under two names, by run, and by state."""

from typing import Final

from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"


def upgrade() -> None:
    """Replace the index of repositories and numbers, and add those of runs and states."""
    op.drop_index("jobs_by_number", "jobs")
    op.create_index("jobs_by_number", "jobs", ["state", "number"])
    op.create_index("jobs_by_run", "jobs", ["run_id"])
    op.create_index("jobs_by_state", "jobs", ["state", "position"])
