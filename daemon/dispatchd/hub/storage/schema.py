"""Tables of the hub (SQLAlchemy Core). A change here needs a migration in `migrations/versions/`."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.engine import Dialect
from typing_extensions import override

METADATA: Final = MetaData()


class Words(TypeDecorator[str]):
    """Any text. PostgreSQL has no NUL in texts, so it is stored as the replacement character (U+FFFD)."""

    impl = Text  # type: ignore[mutable-override]  # how SQLAlchemy wants it
    cache_ok = True  # type: ignore[mutable-override]  # likewise

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return (
            None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        )


_Big: Final = BigInteger().with_variant(Integer, "sqlite")
"""Integer of 64 bits; on SQLite of the type INTEGER, because only that auto-increments."""


def _text(name: str) -> Column[str]:
    return Column(name, Words, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, _Big, nullable=False, server_default="0")


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default="0")


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("position", _Big, primary_key=True, autoincrement=True),
    _flag("urgent"),
    Column("id", Words, nullable=False, unique=True),
    _text("document"),
    _text("workflow"),
    _text("repository"),
    _number("number"),
    Column("by_event", Boolean, nullable=False, server_default=false()),
    _time("event_at"),
    _number("priority"),
    _number("turn"),
    _number("size"),
    _text("only_machine"),
    _text("state"),
    _text("machine"),
    _text("token_hash"),
    _time("lease_until"),
    _flag("lapsed"),
    _text("run_id"),
    _text("phase"),
    _text("reason"),
    _text("progress"),
    _text("parked"),
    _time("parked_at"),
    _flag("cancel_requested"),
    _text("decision"),
    _text("result_summary"),
    _text("result_cause"),
    _text("result_output"),
    _text("result_details"),
    _time("created_at"),
    _time("claimed_at"),
    _time("accepted_at"),
    _time("started_at"),
    _time("run_ended_at"),
    _time("finished_at"),
    _number("deliveries"),
    _number("expiries"),
    _number("accepts"),
    _number("finishes"),
    sqlite_autoincrement=True,
)
_JOB: Final = JOBS.c
Index(
    "jobs_to_claim",
    _JOB.state,
    _JOB.urgent.desc(),
    _JOB.priority.desc(),
    _JOB.turn,
    _JOB.position,
)
Index("jobs_by_turn", _JOB.state, _JOB.priority, _JOB.repository, _JOB.turn)
Index("jobs_by_number", _JOB.state, _JOB.number)
Index("jobs_by_run", _JOB.run_id)
Index("jobs_by_state", _JOB.state, _JOB.position)
Index("jobs_by_lease", _JOB.state, _JOB.lease_until)
Index("jobs_by_end", _JOB.state, _JOB.finished_at)
Index("jobs_by_repository", _JOB.repository, _JOB.position)
Index("jobs_by_workflow", _JOB.workflow, _JOB.position)
Index("jobs_of_repository", _JOB.state, _JOB.repository, _JOB.position)

COUNTS: Final = Table(
    "job_counts",
    METADATA,
    Column("state", Words, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    _number("jobs"),
    _number("bytes"),
)
"""Number of jobs in each state, and their size. Triggers of `jobs` keep it (`migrations/versions/v0006_counts.py`).

The sum of all parts counts: on PostgreSQL each connection changes a part of its own.
"""

TEXTS: Final = Table(
    "texts",
    METADATA,
    Column("id", Words, primary_key=True),
    _text("payload"),
    _text("headers"),
)

ATTEMPTS: Final = Table(
    "attempts",
    METADATA,
    Column("job_id", Words, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _text("machine"),
    _time("claimed_at"),
    _time("lease_until"),
    _time("ended_at"),
    _text("outcome"),
    _text("cause"),
)

ARTIFACTS: Final = Table(
    "artifacts",
    METADATA,
    Column("job_id", Words, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _text("path"),
    _number("size"),
    _text("sha256"),
    _text("machine"),
    _number("claim"),
    _number("attempt"),
    _time("listed_at"),
    _time("stored_at"),
    _text("refused"),
)
"""Files that the newest attempt of each job has left. The bytes are in files, by their hash (`artifacts/store.py`)."""
Index("artifacts_by_hash", ARTIFACTS.c.sha256)
Index("artifacts_by_time", ARTIFACTS.c.listed_at)

LICENSES: Final = Table(
    "licenses",
    METADATA,
    Column("id", Words, primary_key=True),
    _time("created_at"),
    _time("revoked_at"),
)

MACHINES: Final = Table(
    "machines",
    METADATA,
    Column("name", Words, primary_key=True),
    _text("server_id"),
    _text("license_id"),
    _text("secret_hash"),
    _text("key_hash"),
    _time("key_expires_at"),
    _time("added_at"),
    _time("activated_at"),
    _time("seen_at"),
    _time("revoked_at"),
    _text("workflows"),
    _text("version"),
    _number("slots"),
    _number("free_bytes"),
)
Index("machines_by_server_id", MACHINES.c.server_id)

TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("name", Words, primary_key=True),
    _text("token_hash"),
    _text("scopes"),
    _time("created_at"),
    _time("revoked_at"),
)

DELIVERIES: Final = Table(
    "deliveries",
    METADATA,
    Column("target", Words, primary_key=True),
    Column("id", Words, primary_key=True),
    _text("event"),
    _text("action"),
    _number("installation"),
    _text("repository"),
    _text("payload_hash"),
    _time("received_at"),
    _text("routing"),
    _text("state"),
    _text("job_ids"),
)
Index("deliveries_by_id", DELIVERIES.c.id)
Index("deliveries_by_time", DELIVERIES.c.received_at)

CHECKS: Final = Table(
    "checks",
    METADATA,
    Column("job_id", Words, primary_key=True),
    _number("installation"),
    _text("repository"),
    _text("sha"),
    _number("pull_request"),
    _text("name"),
    _text("state"),
    _flag("owed"),
    _text("told"),
    _number("round"),
    _text("kind"),
    _number("check_run_id"),
    _flag("asked"),
    _number("failures"),
    _time("retry_at"),
    _text("trouble"),
    _time("created_at"),
)
Index("checks_owed", CHECKS.c.owed, CHECKS.c.retry_at)
Index("checks_by_commit", CHECKS.c.repository, CHECKS.c.sha)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", Words, primary_key=True),
    _time("at"),
    _text("who"),
    _text("method"),
    _text("path"),
    _number("status"),
    _text("address"),
)
"""Changes that only an owner or an operator may make (`auth/audit_list.py`). The ids are random: a restore adds to what is there."""
Index("audit_by_time", AUDIT.c.at)

MARKS: Final = Table(
    "marks",
    METADATA,
    Column("name", Words, primary_key=True),
    _text("value"),
)

PAUSED: Final = "dispatch paused"
"""Name of the mark that exists while dispatch is paused."""

TURN: Final = "turn of priority "
"""Prefix of the marks with the turn of the newest claim of a priority; the priority follows."""

SECRETS: Final = Table(
    "secrets",
    METADATA,
    Column("name", Words, primary_key=True),
    _text("value"),
)

PAGE_KEY: Final = "page-session-key"
"""Name of the secret that signs the sessions of the web page."""
