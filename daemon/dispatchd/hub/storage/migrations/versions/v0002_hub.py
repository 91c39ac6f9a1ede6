"""Machines, licenses, tokens, deliveries and attempts; jobs with their outcomes as states, and with turns."""

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_KEPT: Final = (
    *("position", "id", "document", "machine", "token_hash", "lease_until", "run_id"),
    *("phase", "reason", "progress", "result_summary", "result_cause", "result_output"),
    *("created_at", "claimed_at", "accepted_at", "finished_at"),
    *("deliveries", "accepts", "finishes"),
)
"""Columns of a job that stay as they are."""


def upgrade() -> None:
    """Make the new tables, and copy the jobs."""
    before = sa.Table("jobs", sa.MetaData(), autoload_with=op.get_bind())
    rows = op.get_bind().execute(sa.select(before)).mappings().all()
    op.drop_table("jobs")
    jobs, attempts = _jobs(), _attempts()
    _others()
    if rows:
        op.bulk_insert(jobs, [_job(row) for row in rows])
        op.bulk_insert(attempts, [_claim(row) for row in rows if row["deliveries"]])
    if op.get_bind().dialect.name == "postgresql":
        # Rows inserted with their positions have not advanced the sequence.
        op.execute(
            "SELECT setval(pg_get_serial_sequence('jobs', 'position'), "
            "(SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), false)"
        )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _BIG, nullable=False, server_default="0")


def _time(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


def _jobs() -> sa.Table:
    table = op.create_table(
        "jobs",
        sa.Column("position", _BIG, primary_key=True, autoincrement=True),
        sa.Column("urgent", sa.Boolean, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        *(_text(name) for name in ("document", "workflow", "repository")),
        *(_number(name) for name in ("priority", "turn")),
        *(_text(name) for name in ("only_machine", "state", "machine", "token_hash")),
        _time("lease_until"),
        sa.Column("lapsed", sa.Boolean, nullable=False),
        *(_text(name) for name in ("run_id", "phase", "reason", "progress")),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        *(_text(f"result_{name}") for name in ("summary", "cause", "output")),
        *(
            _time(f"{name}_at")
            for name in ("created", "claimed", "accepted", "finished")
        ),
        *(_number(name) for name in ("deliveries", "expiries", "accepts", "finishes")),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    claim: list[str | sa.TextClause] = ["state", sa.text("urgent DESC")]
    claim += [sa.text("priority DESC"), "turn", "position"]
    op.create_index("jobs_to_claim", "jobs", claim)
    op.create_index("jobs_by_turn", "jobs", ["state", "priority", "repository", "turn"])
    op.create_index("jobs_by_lease", "jobs", ["state", "lease_until"])
    op.create_index("jobs_by_end", "jobs", ["state", "finished_at"])
    return table


def _attempts() -> sa.Table:
    return op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        _text("machine"),
        *(_time(name) for name in ("claimed_at", "lease_until", "ended_at")),
        *(_text(name) for name in ("outcome", "cause")),
    )


def _others() -> None:
    op.create_table(
        "licenses",
        sa.Column("id", sa.Text, primary_key=True),
        *(_time(name) for name in ("created_at", "revoked_at")),
    )
    op.create_table(
        "machines",
        sa.Column("name", sa.Text, primary_key=True),
        *(
            _text(name)
            for name in ("server_id", "license_id", "secret_hash", "key_hash")
        ),
        *(
            _time(f"{name}_at")
            for name in ("key_expires", "added", "activated", "seen", "revoked")
        ),
        _text("workflows"),
    )
    op.create_index("machines_by_server_id", "machines", ["server_id"])
    op.create_table(
        "tokens",
        sa.Column("name", sa.Text, primary_key=True),
        *(_text(name) for name in ("token_hash", "scopes")),
        *(_time(name) for name in ("created_at", "revoked_at")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        *(_text(name) for name in ("event", "action")),
        _number("installation"),
        *(_text(name) for name in ("repository", "payload_hash")),
        _time("received_at"),
        *(_text(name) for name in ("routing", "state", "job_id")),
    )
    op.create_index("deliveries_by_time", "deliveries", ["received_at"])


def _job(row: sa.RowMapping) -> dict[str, object]:
    document = json.loads(row["document"])
    return {
        **{name: row[name] for name in _KEPT},
        "urgent": bool(row["urgent"]),
        "workflow": document.get("dag_name") or "",
        "repository": document.get("repository_name") or "",
        "priority": 0,
        "turn": row["position"],
        "only_machine": "",
        "state": row["result_status"] if row["state"] == "finished" else row["state"],
        "lapsed": False,
        "cancel_requested": bool(row["cancel_requested"]),
        "expiries": 0,
    }


def _claim(row: sa.RowMapping) -> dict[str, object]:
    """Return the newest claim of a job; earlier ones are unknown."""
    given_back = "released" if row["state"] == "queued" else ""
    return {
        "job_id": row["id"],
        "number": row["deliveries"],
        "machine": row["machine"],
        "claimed_at": row["claimed_at"],
        "lease_until": row["lease_until"],
        "ended_at": row["finished_at"],
        "outcome": row["result_status"] or given_back,
        "cause": row["result_cause"],
    }
