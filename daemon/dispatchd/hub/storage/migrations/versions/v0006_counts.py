"""Counts of jobs, kept by triggers; indexes of jobs by repository and by workflow."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_LONGEST: Final = 512
"""Longest name of a workflow (characters; contracts/README.md, the hub)."""

_ADD: Final = """
INSERT INTO job_counts (state, part, jobs, bytes) VALUES ({of}.state, {part}, {sign}1, {sign}{of}.size)
ON CONFLICT (state, part)
DO UPDATE SET jobs = job_counts.jobs + excluded.jobs, bytes = job_counts.bytes + excluded.bytes;
"""
_INSERTED: Final = _ADD.format(of="NEW", part="0", sign="")
_DELETED: Final = _ADD.format(of="OLD", part="0", sign="-")
_ON_SQLITE: Final = (
    f"CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN {_INSERTED} END",
    f"CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN {_DELETED} END",
    f"""
    CREATE TRIGGER jobs_changed AFTER UPDATE OF state, size ON jobs
    WHEN OLD.state <> NEW.state OR OLD.size <> NEW.size
    BEGIN {_DELETED} {_INSERTED} END
    """,
)

# Each connection has rows of its own, so that no transaction waits for another one's end.
_PART: Final = "mod(pg_backend_pid(), 256)"
_NEW: Final = _ADD.format(of="NEW", part=_PART, sign="")
_OLD: Final = _ADD.format(of="OLD", part=_PART, sign="-")
_ON_POSTGRESQL: Final = (
    f"""
    CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF TG_OP = 'INSERT' THEN
        {_NEW}
      ELSIF TG_OP = 'DELETE' THEN
        {_OLD}
      -- Rows in one order, so that no two transactions wait for each other.
      ELSIF OLD.state < NEW.state THEN
        {_OLD}
        {_NEW}
      ELSE
        {_NEW}
        {_OLD}
      END IF;
      RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER jobs_counted AFTER INSERT OR DELETE ON jobs
    FOR EACH ROW EXECUTE FUNCTION count_jobs()
    """,
    """
    CREATE TRIGGER jobs_changed AFTER UPDATE OF state, size ON jobs
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.size <> NEW.size)
    EXECUTE FUNCTION count_jobs()
    """,
)


def upgrade() -> None:
    """Make the triggers, count the jobs, and replace the indexes."""
    op.create_table(
        "job_counts",
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("jobs", _BIG, nullable=False, server_default="0"),
        sa.Column("bytes", _BIG, nullable=False, server_default="0"),
    )
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    # First, because they keep others from writing until the end.
    for trigger in _ON_POSTGRESQL if is_postgresql else _ON_SQLITE:
        op.get_bind().exec_driver_sql(trigger)
    op.execute(
        "INSERT INTO job_counts (state, part, jobs, bytes)"
        " SELECT state, 0, count(*), sum(size) FROM jobs GROUP BY state"
    )
    op.drop_index("jobs_by_size", "jobs")
    # PostgreSQL's largest entry of an index has 2,704 bytes. The document still has the whole name.
    name: sa.ColumnClause[str] = sa.column("workflow", sa.Text)
    op.execute(
        sa.update(sa.table("jobs", name))
        .where(sa.func.length(name) > _LONGEST)
        .values(workflow=sa.func.substr(name, 1, _LONGEST))
    )
    op.create_index("jobs_by_repository", "jobs", ["repository", "position"])
    op.create_index("jobs_by_workflow", "jobs", ["workflow", "position"])
    op.create_index("jobs_of_repository", "jobs", ["state", "repository", "position"])
