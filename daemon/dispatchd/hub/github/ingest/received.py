"""Received jobs: stored, but not queued before GitHub has been asked about them."""

from typing import Final

from attrs import evolve, frozen
from sqlalchemy import Connection, and_, false, select

from dispatchd.hub.auth.audit_list import add_change
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.model import HELD, WAITING, HubJob, State
from dispatchd.hub.domain.supersede import cancelled, is_same_repository
from dispatchd.hub.domain.transitions import Event, advance
from dispatchd.hub.github.ingest.acts import change_at_github
from dispatchd.hub.github.ingest.inbox import check_for
from dispatchd.hub.github.ingest.resolutions import carry_out
from dispatchd.hub.queue.admission import (
    lock_repository,
    locked,
    of_repository,
)
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import amend_routing
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.rows import COLUMNS, insert_check, read_job, write_job
from dispatchd.hub.storage.jobs.turns import next_turn
from dispatchd.hub.storage.schema import JOBS
from dispatchd.protocol.outcome import FailureCause

_JOB: Final = JOBS.c


@frozen
class Received:
    """Received jobs of a database.

    Calls block. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def oldest(self, limit: int) -> list[HubJob]:
        """Return the oldest received jobs, oldest first."""
        query = select(*COLUMNS).where(_JOB.state == State.RECEIVED)
        with self._database.snapshot() as db:
            rows = db.execute(query.order_by(_JOB.position).limit(limit))
            return [read_job(row) for row in rows.mappings()]

    def free(self, job_id: str, document: JobDocument) -> list[HubJob]:
        """Queue a job, with its fields as they are known now; return the jobs that this has changed."""

        def work(db: Connection) -> list[HubJob]:
            lock_repository(db, document.repository, document.repository_id)
            before = _received(db, job_id)
            if before is None:
                return []
            job = advance(before, Event.FREED, document=document)
            job = evolve(job, turn=next_turn(db, job))
            write_job(db, before, job)
            check = check_for(document, document.rule)
            if check is not None:
                insert_check(db, check, job)
            return [job]

        return self._database.write(work)

    def end(self, job_id: str, reason: str, *, now: float) -> list[HubJob]:
        """End a job that is not to run, with the reason."""

        def work(db: Connection) -> list[HubJob]:
            before = _received(db, job_id)
            if before is None:
                return []
            summary = f"{reason[:1].upper()}{reason[1:]}."
            job = claim_rules.ended_here(before, Event.IGNORED, summary, "", now=now)
            _write_end(db, before, job, reason)
            return [job]

        return self._database.write(work)

    def cancel(self, job_id: str, *, now: float) -> list[HubJob]:
        """Execute a cancel job: end the unfinished jobs of its pull request or issue."""

        def work(db: Connection) -> list[HubJob]:
            before = _received(db, job_id)
            if before is None:
                return []
            meant = self._unfinished(db, before)
            ended = [claim_rules.cancel(target, now=now) for target in meant]
            actor = before.document.actor
            for was, after in zip(meant, ended, strict=True):
                write_job(db, was, after)
                add_change(db, change_at_github(actor, was.id, "cancel"), now=now)
            summary = cancelled(ended) if ended else "Nothing is left to cancel"
            event = Event.CARRIED_OUT if ended else Event.HAD_NO_TARGET
            cause = "" if ended else FailureCause.NO_TARGET
            job = claim_rules.ended_here(before, event, f"{summary}.", cause, now=now)
            _write_end(db, before, job, summary)
            return [*ended, job]

        return self._database.write(work)

    def resolve(self, job_id: str, *, now: float) -> tuple[list[HubJob], str]:
        """Give a decision to the parked job that it is about; return the changed jobs, and why it can't have it.

        Args:
            job_id: The received job of the decision.
            now: The time (seconds since the epoch).
        """

        def work(db: Connection) -> tuple[list[HubJob], str]:
            before = _received(db, job_id)
            if before is None:
                return [], ""
            target, problem = carry_out(db, before, now=now)
            resolution = before.document.resolution or {}
            summary = f"Decided about {resolution.get('job')}: {resolution.get('as')}"
            event, cause = Event.CARRIED_OUT, ""
            if target is None:
                summary = problem[:1].upper() + problem[1:]
                event, cause = Event.HAD_NO_TARGET, FailureCause.NO_TARGET.value
            else:
                change = change_at_github(before.document.actor, target.id, "resolve")
                add_change(db, change, now=now)
            job = claim_rules.ended_here(before, event, f"{summary}.", cause, now=now)
            _write_end(db, before, job, summary)
            return [*([] if target is None else [target]), job], problem

        return self._database.write(work)

    def _unfinished(self, db: Connection, job: HubJob) -> list[HubJob]:
        """Return the unfinished jobs of the same pull request or issue that are older than the cancel job."""
        if not job.number:
            return []
        given = select(_JOB.position).where(_JOB.id == job.id).scalar_subquery()
        condition = and_(
            _JOB.state.in_((*HELD, *WAITING)),
            of_repository(job.document),
            _JOB.number == job.number,
            _JOB.urgent == false(),
            # A sum, because SQLite would search by the position, and so through the history, otherwise.
            _JOB.position + 0 < given,
        )
        return locked(
            db,
            condition,
            lambda other: is_same_repository(job.document, other.document),
        )


def _received(db: Connection, job_id: str) -> HubJob | None:
    """Return a job with its row locked; None if it is no longer received, as after a cancellation."""
    row = db.execute(queries.LOCKED, {"of_id": job_id}).mappings().first()
    job = None if row is None else read_job(row)
    return job if job is not None and job.state is State.RECEIVED else None


def _write_end(db: Connection, before: HubJob, after: HubJob, summary: str) -> None:
    write_job(db, before, after)
    amend_routing(db, after.document.delivery_id, after.id, summary)
