"""Read access to jobs: each call reads one consistent state, without blocking writers."""

from collections.abc import Collection, Iterator
from typing import Any, Final

from attrs import frozen
from sqlalchemy import ColumnElement, Select, func, literal, select

from dispatchd.hub.domain.model import HELD, WAITING, Attempt, HubJob, State
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.requeues import requeued_of
from dispatchd.hub.storage.jobs.rows import COLUMNS, read_document, read_job
from dispatchd.hub.storage.schema import ATTEMPTS, JOBS, TEXTS, Words

_JOB: Final = JOBS.c


@frozen(kw_only=True)
class Filter:
    """Filter of jobs; an empty text matches any."""

    state: str = ""
    repository: str = ""
    workflow: str = ""
    like: str = ""
    """Beginning of the id."""
    words: str = ""
    """Words that a job has to have in what its page says of its origin, in any case."""
    before: str = ""
    """Id of the job before which the others were submitted."""
    limit: int = 100
    repositories: frozenset[str] | None = None
    """Repositories whose jobs may be shown; None for all jobs."""


SEARCHED: Final = 5000
"""Newest jobs that a search by words reads (count): no index has them."""


@frozen(kw_only=True)
class HeldJob:
    """A job that a machine has."""

    id: str
    workflow: str
    machine: str
    state: State


@frozen(kw_only=True)
class Wait:
    """Wait of a job for a machine (seconds since the epoch); `ended_at` is 0 while it waits."""

    created_at: float
    ended_at: float


_SHORT: Final = [
    literal("").label(column.name) if column is _JOB.result_details else column
    for column in COLUMNS
]
"""Columns of a job for lists, without the result's details, which may have 1 MB."""


@frozen
class JobReader:
    """Reader of a database's jobs.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def get(
        self, job_id: str, repositories: Collection[str] | None = None
    ) -> HubJob | None:
        """Return a job, or None.

        Args:
            job_id: The id.
            repositories: Repositories of which it must be; None for any. A job of another one is as if there were none.
        """
        query = select(*COLUMNS).where(_JOB.id == job_id)
        if repositories is not None:
            query = query.where(queries.beside(_JOB.repository).in_(repositories))
        with self._database.look() as db:
            row = db.execute(query).mappings().first()
            return None if row is None else read_job(row)

    def texts(self, job_id: str) -> tuple[str, str] | None:
        """Return payload and headers of a job (JSON), or None."""
        query = select(TEXTS.c.payload, TEXTS.c.headers).where(TEXTS.c.id == job_id)
        with self._database.snapshot() as db:
            row = db.execute(query).first()
            return None if row is None else (row.payload, row.headers)

    def short_payload(self, job_id: str, most: int) -> str:
        """Return the payload of a job (JSON); empty for a longer one, or for none."""
        length = func.length(TEXTS.c.payload)
        query = select(TEXTS.c.payload).where(TEXTS.c.id == job_id, length <= most)
        with self._database.snapshot() as db:
            return db.execute(query).scalar() or ""

    def requeued_of(self, job_id: str) -> str:
        """Return the id of the job that a requeued job runs again; empty for any other job."""
        with self._database.snapshot() as db:
            return requeued_of(db, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the claims of a job, oldest first."""
        query = select(ATTEMPTS).where(ATTEMPTS.c.job_id == job_id)
        with self._database.snapshot() as db:
            rows = db.execute(query.order_by(ATTEMPTS.c.number)).mappings().all()
            return [Attempt(**row) for row in rows]

    def repositories(self, most: int) -> list[str]:
        """Return the repositories with the newest jobs, at most so many."""
        with self._database.snapshot() as db:
            return [*db.execute(queries.newest_repositories(most)).scalars()]

    def _search(self, query: Select[Any], job_filter: Filter) -> list[HubJob]:
        """Return those of the newest jobs that have the words, sorted oldest first."""
        if job_filter.repositories is not None:
            query = query.where(_JOB.repository.in_(job_filter.repositories))
        words = job_filter.words.lower().split()
        scan = query.with_only_columns(_JOB.position, _JOB.id, _JOB.document)
        found: list[int] = []
        with self._database.snapshot() as db:
            for position, job_id, document in db.execute(scan):
                said = searched(job_id, document)
                if all(word in said for word in words):
                    found.append(position)
                if len(found) == job_filter.limit:
                    break
            rows = select(*_SHORT).where(_JOB.position.in_(found))
            ordered = rows.order_by(_JOB.position)
            return [read_job(row) for row in db.execute(ordered).mappings().all()]

    def held(self, most: int) -> list[HeldJob]:
        """Return the jobs that machines have, at most so many, oldest first."""
        columns = (_JOB.id, _JOB.workflow, _JOB.machine, _JOB.state)
        query = select(*columns).where(_JOB.state.in_(HELD)).order_by(_JOB.position)
        with self._database.snapshot() as db:
            rows = db.execute(query.limit(most)).all()
        return [
            HeldJob(id=job_id, workflow=workflow, machine=machine, state=State(state))
            for job_id, workflow, machine, state in rows
        ]

    def next_queued(self, most: int) -> list[HubJob]:
        """Return the queued jobs in the order in which they are dispatched, at most so many."""
        query = select(*_SHORT).where(_JOB.state == State.QUEUED)
        with self._database.snapshot() as db:
            rows = db.execute(query.order_by(*queries.ORDER).limit(most)).mappings()
            return [read_job(row) for row in rows.all()]

    def ahead_of(self, job_id: str, most: int) -> int:
        """Return the number of queued jobs that are dispatched before a queued one, at most so many."""
        with self._database.snapshot() as db:
            query = queries.ahead_of(job_id).limit(most).subquery()
            return db.execute(select(func.count()).select_from(query)).scalar() or 0

    def waits(self, *, since: float, most: int) -> list[Wait]:
        """Return the waits of the newest jobs, at most so many, that were submitted since a time or still wait.

        Args:
            since: The time (seconds since the epoch).
            most: Most of them (count).
        """
        columns = (_JOB.state, _JOB.created_at, _JOB.claimed_at, _JOB.finished_at)
        newest = select(*columns).order_by(_JOB.position.desc()).limit(most)
        old = newest.where(_JOB.state == State.QUEUED, _JOB.created_at < since)
        with self._database.snapshot() as db:
            rows = [row for row in db.execute(newest) if row.created_at >= since]
            rows += db.execute(old).all()
        return [
            Wait(
                created_at=created_at,
                ended_at=0 if state in WAITING else claimed_at or finished_at,
            )
            for state, created_at, claimed_at, finished_at in rows
        ]

    def list(self, job_filter: Filter) -> list[HubJob]:
        """Return the newest jobs, sorted oldest first."""
        query = select(*_SHORT).where(*_conditions(job_filter))
        newest = _JOB.position.desc()
        if like := job_filter.like:
            # The shortest first, so that the limit never cuts off the job whose whole id it is.
            beginning = func.substr(_JOB.id, 1, len(like), type_=Words)
            query = query.where(beginning == like).order_by(func.length(_JOB.id))
        query = query.order_by(newest).limit(job_filter.limit)
        if job_filter.words:
            return self._search(query.limit(SEARCHED), job_filter)
        if job_filter.repositories is not None:
            # An index finds their positions; only the rows that are returned are read.
            is_theirs = _JOB.repository.in_(job_filter.repositories)
            found = query.with_only_columns(_JOB.position).where(is_theirs)
            query = select(*_SHORT).where(_JOB.position.in_(found.correlate(None)))
            query = query.order_by(newest)
        with self._database.snapshot() as db:
            rows = db.execute(query).mappings().all()
            return [read_job(row) for row in reversed(rows)]

    def counts(self) -> dict[State, int]:
        """Return the number of jobs in each state."""
        with self._database.snapshot() as db:
            rows = db.execute(queries.COUNTED)
            counts = {State(state): int(count) for state, count in rows}
        return {state: counts.get(state, 0) for state in State}

    def heard_at(self, *, lease_s: float, now: float) -> dict[str, float]:
        """Return the times at which machines with jobs were last heard of for one of them, by server id.

        Args:
            lease_s: Length of a lease (seconds).
            now: The time, which is the latest that is returned (seconds since the epoch).
        """
        query = (
            select(_JOB.machine, func.max(_JOB.lease_until))
            .where(_JOB.state.in_(HELD))
            .group_by(_JOB.machine)
        )
        with self._database.snapshot() as db:
            return {
                name: min(now, until - lease_s) for name, until in db.execute(query)
            }

    def running(self) -> dict[str, int]:
        """Return the number of jobs that run on each machine that has any, by server id."""
        query = select(_JOB.machine, func.count()).where(_JOB.state == State.RUNNING)
        with self._database.snapshot() as db:
            rows = db.execute(query.group_by(_JOB.machine)).all()
        return {machine: int(count) for machine, count in rows}

    def oldest_queued_at(self) -> float | None:
        """Return the time at which the oldest queued job was submitted, or None."""
        first = select(_JOB.created_at).where(_JOB.state == State.QUEUED)
        with self._database.snapshot() as db:
            return db.execute(first.order_by(_JOB.position).limit(1)).scalar()


def searched(job_id: str, document: str) -> str:
    """Return the text in which a search finds a job, in lower case.

    Args:
        job_id: Its id.
        document: Its document as it is stored.
    """
    job = read_document(job_id, document)
    number = f"#{job.number}" if job.number else ""
    about = (job.title, job.workflow, job.command, job.repository, number)
    cause = (job.ref, job.sha, job.actor, job.event, job.rule)
    return " ".join((job_id, *about, *cause)).lower()


def _conditions(job_filter: Filter) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of a list, of which one index finds the jobs in their order.

    It is that of the repository, with or without the state; else that of the workflow; else that of the state. SQLite
    would take the index of a state that nearly all jobs have.
    """
    state, repository = job_filter.state, job_filter.repository
    workflow = job_filter.workflow
    if repository:
        yield _JOB.repository == repository
    if workflow:
        yield (
            queries.beside(_JOB.workflow) if repository else _JOB.workflow
        ) == workflow
    if state:
        is_alone = repository or not workflow
        yield (_JOB.state if is_alone else queries.beside(_JOB.state)) == state
    if job_filter.before:
        place = select(_JOB.position).where(_JOB.id == job_filter.before)
        yield _JOB.position < place.scalar_subquery().correlate(None)
