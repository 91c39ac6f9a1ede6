"""Rows of jobs and claims in the tables."""

import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from attrs import asdict, evolve, fields
from sqlalchemy import Connection, and_, bindparam, delete, insert, true, update

from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.events import News
from dispatchd.hub.domain.model import Attempt, Check, HubJob, State
from dispatchd.hub.storage.database import announce, origin_of
from dispatchd.hub.storage.engines.pipeline import UNREAD
from dispatchd.hub.storage.schema import ATTEMPTS, CHECKS, JOBS

COLUMNS: Final = [JOBS.c[field.name] for field in fields(HubJob)]
"""Columns of a job: all but its position."""

_OWN: Final = and_(
    ATTEMPTS.c.job_id == bindparam("of_job"),
    ATTEMPTS.c.number == bindparam("of_number"),
)
_INSERT: Final = insert(ATTEMPTS)
_UPDATE: Final = update(ATTEMPTS).where(_OWN)
_DELETE: Final = delete(ATTEMPTS).where(_OWN)
_WRITE: Final = update(JOBS).where(JOBS.c.id == bindparam("of_id"))
_INSERT_CHECK: Final = insert(CHECKS)
_MARK_PENDING: Final = (
    update(CHECKS)
    .where(CHECKS.c.job_id == bindparam("of_job"))
    # Due at once: the failure of an earlier publication may have been due to the state before.
    .values(state=bindparam("new_state"), owed=true(), retry_at=0.0)
)


def values_of(job: HubJob) -> dict[str, Any]:
    """Return the columns of a job."""
    return {**asdict(job, recurse=False), "document": job.document.text}


def read_job(row: Mapping[Any, Any]) -> HubJob:
    """Return the job of a row."""
    values = dict(row)
    values["document"] = _document(values["id"], values["document"])
    values["state"] = State(values["state"])
    return HubJob(**values)


def read_document(job_id: str, text: str) -> JobDocument:
    """Return the document of a job as it is stored; an empty one where the database is damaged."""
    return JobDocument(_document(job_id, text))


def _document(job_id: str, text: str) -> Any:  # noqa: ANN401  # converted by the model
    """Return a document; an empty one, which machines reject, where the database is damaged: it holds up no other job."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return document
    structlog.get_logger().error(
        "job_document_damaged", job_id=job_id, reason="it isn't a JSON object"
    )
    return {}


def write_job(db: Connection, before: HubJob, after: HubJob) -> None:
    """Write a changed job, and the consequences of the change.

    These are the state of its newest claim, its pending check, and the announcement to other hub processes.
    """
    values = {**values_of(after), "of_id": after.id}
    db.execute(_WRITE, values, execution_options=UNREAD)
    keep_attempt(db, before, after)
    if (after.state, after.parked) != (before.state, before.parked):
        # A job that is parked once more has other buttons.
        pending = {"of_job": after.id, "new_state": after.state}
        db.execute(_MARK_PENDING, pending, execution_options=UNREAD)
        tell_others(db, after)
    elif News.of(after).machine != News.of(before).machine:
        # Its machine has to be woken, and may wait at another process.
        tell_others(db, after)


def tell_others(db: Connection, job: HubJob) -> None:
    """Announce a new or changed job to the other hub processes, once the transaction is committed."""
    announce(db, News.of(job).text(origin_of(db)))


def insert_check(db: Connection, check: Check, job: HubJob) -> None:
    """Insert the check of a job within a transaction."""
    stored = evolve(check, job_id=job.id, state=job.state, created_at=job.created_at)
    db.execute(_INSERT_CHECK, asdict(stored), execution_options=UNREAD)


def keep_attempt(db: Connection, before: HubJob, after: HubJob) -> None:
    """Store the effect of a change on the newest claim of a job: that it begins, ends, or continues after all."""
    if after.deliveries > before.deliveries:
        attempt = Attempt(
            job_id=after.id,
            number=after.deliveries,
            machine=after.machine,
            claimed_at=after.claimed_at,
            lease_until=after.lease_until,
        )
        db.execute(_INSERT, asdict(attempt), execution_options=UNREAD)
        return
    if after.deliveries < before.deliveries:
        # The claim never reached its machine.
        own = {"of_job": after.id, "of_number": before.deliveries}
        db.execute(_DELETE, own, execution_options=UNREAD)
        return
    outcome, was = (
        claim_rules.outcome_of_claim(after),
        claim_rules.outcome_of_claim(before),
    )
    # The outcome of a claim stays, also when the hub ends the job later; only its machine can still change it.
    late = after.finishes > before.finishes or outcome == "released"
    if outcome != was and (not was or not outcome or late):
        ended_at = (after.finished_at or after.lease_until) if outcome else 0
        values: dict[str, Any] = {
            "outcome": outcome,
            "cause": after.result_cause,
            "ended_at": ended_at,
            "lease_until": before.lease_until,
        }
        own = {"of_job": after.id, "of_number": after.deliveries}
        db.execute(_UPDATE, {**values, **own}, execution_options=UNREAD)
