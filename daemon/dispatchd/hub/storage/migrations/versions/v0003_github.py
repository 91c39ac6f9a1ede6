"""Deliveries by hook and id, each with all of its jobs; checks at GitHub; marks; details of results."""

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

from dispatchd.hub.storage.migrations.fill import Fill, count

revision: Final = "0003"
down_revision: Final = "0002"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_UNFINISHED: Final = (
    *("received", "queued", "claimed", "accepted", "running", "needs_attention"),
)
_KEPT: Final = (
    *("id", "event", "action", "installation", "repository", "payload_hash"),
    *("received_at", "routing", "state"),
)
"""Columns of a delivery that stay as they are."""


def upgrade() -> None:
    """Make the new tables, copy the deliveries, and add the new columns of jobs."""
    _take_deliveries_over()
    _others()
    # Last, because it locks the jobs until the end.
    op.add_column("jobs", _text("result_details"))
    op.add_column("jobs", _number("number"))
    by_event = sa.Column(
        "by_event", sa.Boolean, nullable=False, server_default=sa.false()
    )
    op.add_column("jobs", by_event)
    op.add_column("jobs", _time("event_at"))


def _jobs(db: sa.Connection) -> sa.Table:
    return sa.Table("jobs", sa.MetaData(), autoload_with=db)


def _count(db: sa.Connection, after: int) -> int:
    jobs = _jobs(db)
    return count(db, jobs, jobs.c.state.in_(_UNFINISHED), after=after)


def _change(db: sa.Connection, after: int, most: int) -> list[int]:
    """Write the numbers. Of what has ended nobody asks for it, and there may be hundreds of thousands of it."""
    jobs = _jobs(db)
    own = sa.update(jobs).where(jobs.c.position == sa.bindparam("of_position"))
    write = own.values(number=sa.bindparam("new_number"))
    part = sa.select(jobs.c.position, jobs.c.document).order_by(jobs.c.position)
    part = part.where(jobs.c.state.in_(_UNFINISHED), jobs.c.position > after)
    rows = db.execute(part.limit(most)).all()
    numbers = [
        {"of_position": row.position, "new_number": number}
        for row in rows
        if (number := _number_of(json.loads(row.document)))
    ]
    if numbers:
        db.execute(write, numbers)
    return [row.position for row in rows]


def _finish(db: sa.Connection) -> None:
    of = _jobs(db).c
    sa.Index("jobs_by_number", of.state, of.repository, of.number).create(db)


FILL: Final = Fill(count=_count, change=_change, finish=_finish)


def _number_of(document: dict[str, object]) -> object:
    return document.get("pull_request_number") or document.get("issue_number")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _BIG, nullable=False, server_default="0")


def _time(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


def _take_deliveries_over() -> None:
    """Make the table of deliveries again, with what it had, by statements that leave the rows in the database."""
    db = op.get_bind()
    before = sa.Table("deliveries", sa.MetaData(), autoload_with=db)
    is_postgresql = db.dialect.name == "postgresql"
    array = sa.func.json_build_array if is_postgresql else sa.func.json_array
    jobs = sa.cast(array(before.c.job_id), sa.Text)
    taken = sa.select(
        *(before.c[name] for name in _KEPT),
        sa.literal("", sa.Text).label("target"),
        sa.case((before.c.job_id == "", "[]"), else_=jobs).label("job_ids"),
    )
    aside = taken.compile(db, compile_kwargs={"literal_binds": True})
    op.execute(f"CREATE TABLE deliveries_aside AS {aside}")
    op.drop_table("deliveries")
    names = (*_KEPT, "target", "job_ids")
    saved = sa.table("deliveries_aside", *(sa.column(name) for name in names))
    db.execute(sa.insert(_deliveries()).from_select([*names], sa.select(saved)))
    op.drop_table("deliveries_aside")


def _deliveries() -> sa.Table:
    table = op.create_table(
        "deliveries",
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        *(_text(name) for name in ("event", "action")),
        _number("installation"),
        *(_text(name) for name in ("repository", "payload_hash")),
        _time("received_at"),
        *(_text(name) for name in ("routing", "state", "job_ids")),
    )
    op.create_index("deliveries_by_id", "deliveries", ["id"])
    op.create_index("deliveries_by_time", "deliveries", ["received_at"])
    return table


def _others() -> None:
    op.create_table(
        "checks",
        sa.Column("job_id", sa.Text, primary_key=True),
        _number("installation"),
        *(_text(name) for name in ("repository", "sha")),
        _number("pull_request"),
        *(_text(name) for name in ("name", "state")),
        sa.Column("owed", sa.Boolean, nullable=False),
        _text("told"),
        _number("round"),
        _text("kind"),
        _number("check_run_id"),
        sa.Column("asked", sa.Boolean, nullable=False),
        _number("failures"),
        _time("retry_at"),
        _text("trouble"),
        _time("created_at"),
    )
    op.create_index("checks_owed", "checks", ["owed", "retry_at"])
    op.create_index("checks_by_commit", "checks", ["repository", "sha"])
    op.create_table(
        "marks", sa.Column("name", sa.Text, primary_key=True), _text("value")
    )
