"""Admission of a job: it is inserted within a transaction, its own or that of the caller."""

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen
from sqlalchemy import ColumnElement, Connection, and_, or_, select

from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import QueueFull
from dispatchd.hub.domain.model import (
    HELD,
    WAITING,
    Delivery,
    HubJob,
    State,
    Submission,
)
from dispatchd.hub.domain.supersede import (
    Submitted,
    after_submit,
    may_supersede,
    means,
)
from dispatchd.hub.storage.database import Database, lock
from dispatchd.hub.storage.deliveries import add_delivery
from dispatchd.hub.storage.engines.pipeline import UNREAD
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.rows import (
    COLUMNS,
    insert_check,
    read_job,
    tell_others,
    values_of,
    write_job,
)
from dispatchd.hub.storage.jobs.turns import next_turn
from dispatchd.hub.storage.schema import JOBS

_JOB: Final = JOBS.c
_LOCKED_AT_ONCE: Final = 1000
"""Most jobs that a statement locks (count): PostgreSQL takes 65,535 parameters, SQLite half as many."""
ANY_SIZE: Final = 2**63 - 1
"""Size limit that means none (bytes)."""


@frozen
class Admission:
    """Adds jobs to the queue of a database."""

    _database: Database

    def submit(
        self,
        submission: Submission,
        *,
        now: float,
        most: int,
        most_bytes: int = ANY_SIZE,
        delivery: Delivery | None = None,
    ) -> HubJob | None:
        """Store a new job durably and return it; return None, and change nothing, if its id is taken.

        Args:
            submission: The job.
            now: The time (seconds since the epoch).
            most: Most jobs that may wait (count).
            most_bytes: Largest size of the waiting jobs together (bytes).
            delivery: The delivery of the job, stored with it.

        Raises:
            QueueFull: The queue is full.
        """

        def work(db: Connection) -> HubJob | None:
            job = self.admit(db, submission, now=now, most=most, most_bytes=most_bytes)
            if job is not None and delivery is not None:
                add_delivery(db, delivery)
            return job

        return self._database.write(work)

    def admit(
        self,
        db: Connection,
        submission: Submission,
        *,
        now: float,
        most: int,
        most_bytes: int = ANY_SIZE,
    ) -> HubJob | None:
        """Insert a new job within a transaction and return it; return None, and change nothing, if its id is taken.

        Other jobs that it means are cancelled or superseded at the same time, but not by a job that is only received.

        Args:
            db: The transaction.
            submission: The job.
            now: The time (seconds since the epoch).
            most: Most jobs that may wait (count).
            most_bytes: Largest size of the waiting jobs together (bytes).

        Raises:
            QueueFull: The queue is full.
        """
        document = submission.document
        lock_repository(db, document.repository, document.repository_id)
        job = HubJob(
            id=submission.id,
            document=document,
            workflow=document.workflow,
            repository=document.repository,
            number=document.number,
            by_event=submission.by_event,
            event_at=submission.event_at,
            urgent=document.is_cancel,
            priority=submission.priority,
            size=submission.size,
            state=State.RECEIVED if submission.received else State.QUEUED,
            created_at=now,
        )
        if not job.urgent:
            _require_room(db, job, most=most, most_bytes=most_bytes)
        changed = Submitted(job=job, others=())
        others: list[HubJob] = []
        if not submission.received:
            others = self._others(db, submission, job)
            changed = after_submit(job, submission, others, now=now)
            job = evolve(changed.job, turn=next_turn(db, job))
        if not self._insert(db, job):
            return None
        texts = {"payload": submission.payload, "headers": submission.headers}
        own = {"id": job.id, **texts}
        db.execute(queries.INSERT_TEXTS, own, execution_options=UNREAD)
        if submission.check is not None:
            insert_check(db, submission.check, job)
        before = {other.id: other for other in others}
        for after in changed.others:
            write_job(db, before[after.id], after)
        tell_others(db, job)
        return job

    def _others(
        self, db: Connection, submission: Submission, job: HubJob
    ) -> list[HubJob]:
        """Return the jobs that a new one may mean, with their rows locked. No others are locked: claims skip locked jobs."""
        if job.urgent:
            condition = and_(_JOB.state.in_((*HELD, *WAITING)), _may_mean(job))
        elif submission.supersedes and may_supersede(submission.document):
            condition = and_(
                _JOB.state.in_((State.QUEUED, *HELD)),
                of_repository(submission.document),
                _JOB.number == job.number,
                queries.beside(_JOB.workflow) == job.workflow,
            )
        else:
            return []
        return locked(db, condition, lambda other: means(job, submission, other))

    @staticmethod
    def _insert(db: Connection, job: HubJob) -> bool:
        if db.execute(queries.POSITION, {"of_id": job.id}).first():
            return False
        # If another transaction inserts the same job at this moment, `Database.write` repeats this one.
        db.execute(queries.INSERT, values_of(job), execution_options=UNREAD)
        return True


def _require_room(db: Connection, job: HubJob, *, most: int, most_bytes: int) -> None:
    """Raise if the queue is full; a single job always fits, whatever its size.

    Raises:
        QueueFull: It is full.
    """
    count, size = db.execute(queries.WAITING_SIZE).one()
    if count >= most:
        message = f"the queue is full (queue.most = {most})"
        raise QueueFull(message)
    if count and size + job.size > most_bytes:
        message = f"the queue is full (queue.most_mib = {most_bytes >> 20})"
        raise QueueFull(message)


def lock_repository(db: Connection, name: str, repository_id: int) -> None:
    """Keep others waiting who decide about jobs of a repository, under whichever name; 0 where its id isn't known."""
    lock(db, name)
    if repository_id:
        # After its name, so that no two transactions wait for each other.
        lock(db, f"repository {repository_id}")


def of_repository(document: JobDocument) -> ColumnElement[bool]:
    """Return what holds at least for the jobs of a job's repository (`submitted.is_same_repository`)."""
    is_named = queries.beside(_JOB.repository) == document.repository
    if not document.repository_id:
        return is_named
    known = document.stored_repository_id
    return or_(is_named, _JOB.document.contains(known, autoescape=True))


def locked(
    db: Connection, condition: ColumnElement[bool], is_meant: Callable[[HubJob], bool]
) -> list[HubJob]:
    """Return jobs that are to be changed, locked, and no others: whoever claims passes locked ones over."""
    # In one order, so that no two transactions wait for each other.
    query = select(*COLUMNS).where(condition).order_by(_JOB.position)
    ids = [
        job.id for job in map(read_job, db.execute(query).mappings()) if is_meant(job)
    ]
    found: list[HubJob] = []
    for start in range(0, len(ids), _LOCKED_AT_ONCE):
        part = _JOB.id.in_(ids[start : start + _LOCKED_AT_ONCE])
        rows = db.execute(query.where(part).with_for_update())
        found += map(read_job, rows.mappings())
    return found


def _may_mean(job: HubJob) -> ColumnElement[bool]:
    """Return a condition that all jobs meant by a cancel job fulfil (`submitted.after_submit`); others may, too."""
    target = job.document.target
    if target:
        return or_(_JOB.id == target, _JOB.run_id == target)
    same = and_(
        of_repository(job.document), queries.beside(_JOB.workflow) == job.workflow
    )
    if job.document.pull_request:
        return and_(same, _JOB.number == job.number)
    if not job.document.repository_id:
        # By the index; one that was renamed may have jobs under other names.
        return and_(same, _JOB.repository == job.repository)
    return same
