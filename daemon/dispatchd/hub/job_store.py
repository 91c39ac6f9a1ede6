"""Durable jobs: every call is one transaction, and what it has changed is durable when it returns."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import evolve, frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    or_,
    select,
)

from dispatchd.hub import job_queries as queries
from dispatchd.hub import rules
from dispatchd.hub.database import Database
from dispatchd.hub.delivery_store import keep_delivery
from dispatchd.hub.job_rows import COLUMNS, keep_attempt, read_job, values_of
from dispatchd.hub.model import (
    ENDED,
    HELD,
    WAITING,
    Claimed,
    Delivery,
    HubJob,
    QueueFull,
    State,
    Submission,
)
from dispatchd.hub.schema import ATTEMPTS, JOBS, TEXTS
from dispatchd.hub.settings import Leases
from dispatchd.hub.waiting import News

_JOB: Final = JOBS.c
_FOR_MACHINES: Final = _JOB.state == State.QUEUED
_EXPIRED_AT_ONCE: Final = 100
"""How many claims are expired in one transaction (count)."""

_PRUNED_AT_ONCE: Final = 500


@frozen
class JobStore:
    """The jobs of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def submit(
        self,
        submission: Submission,
        *,
        now: float,
        most: int,
        delivery: Delivery | None = None,
    ) -> HubJob | None:
        """Keep a new job durably; None, and nothing changes, if its id is taken.

        Other jobs are at the same time cancelled or superseded, where it means them.

        Args:
            submission: The job.
            now: The time.
            most: How many jobs may wait (count).
            delivery: What has brought it, kept with it.

        Raises:
            QueueFull: As many wait.
        """
        document = submission.document
        job = HubJob(
            id=submission.id,
            document=document,
            workflow=str(document.get("dag_name") or ""),
            repository=str(document.get("repository_name") or ""),
            urgent=rules.is_cancel(document),
            priority=submission.priority,
            created_at=now,
        )
        with self._database.transaction() as db:
            if not job.urgent and self._has_waiting(db, most):
                raise QueueFull
            others = self._others(db, submission, job)
            changed = rules.after_submit(job, submission, others, now=now)
            job = evolve(changed.job, turn=self._turn(db, job))
            if not self._insert(db, job):
                return None
            texts = {"payload": submission.payload, "headers": submission.headers}
            db.execute(queries.INSERT_TEXTS, {"id": job.id, **texts})
            if delivery is not None:
                keep_delivery(db, delivery)
            for after in changed.others:
                self._write(db, after)
            self._announce(db, job)
            return job

    def claim(
        self,
        machine: str,
        token_hash: str,
        workflows: Sequence[str] | None,
        *,
        now: float,
        lease_s: float,
    ) -> Claimed | None:
        """Give a machine the next job: urgent ones first, then by priority, turn and age.

        Args:
            machine: The machine's server id.
            token_hash: The hash of the claim's token.
            workflows: What the machine declares; None for a machine that takes any job.
            now: The time.
            lease_s: For how long the claim holds (seconds).
        """
        asked: dict[str, Any] = {"asking_machine": machine}
        query = queries.NEXT
        if workflows is not None:
            query, asked["declared"] = queries.NEXT_DECLARED, list(workflows)
        with self._database.transaction() as db:
            row = db.execute(query, asked).mappings().first()
            if row is None:
                return None
            before = read_job(row)
            job = rules.claim(
                before, machine, token_hash, now=now, lease_until=now + lease_s
            )
            self._write(db, job)
            keep_attempt(db, before, job)
            texts = db.execute(queries.TEXTS_OF, {"of_id": job.id}).one()
            return Claimed(job=job, payload=texts.payload, headers=texts.headers)

    def change(
        self, job_id: str, decide: Callable[[HubJob], HubJob]
    ) -> tuple[HubJob, HubJob] | None:
        """Replace a job by what `decide` makes of it, and return it as it was and as it is; None if there is none.

        What `decide` raises changes nothing.
        """
        with self._database.transaction() as db:
            row = db.execute(queries.LOCKED, {"of_id": job_id}).mappings().first()
            if row is None:
                return None
            before = read_job(row)
            after = decide(before)
            if after != before:
                self._write(db, after)
                keep_attempt(db, before, after)
                if after.state is not before.state:
                    self._announce(db, after)
            return before, after

    def expire(
        self, decide: Callable[[HubJob], HubJob], *, now: float, leases: Leases
    ) -> list[HubJob]:
        """Replace jobs whose lease is over for good by what `decide` makes of them, and return these."""
        over = [
            and_(wanted, _JOB.lease_until <= now - more_s)
            for wanted, more_s in _held(leases)
        ]
        query = (
            select(*COLUMNS)
            .where(or_(*over))
            .limit(_EXPIRED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        with self._database.transaction() as db:
            found = [read_job(row) for row in db.execute(query).mappings()]
            changed = [(before, decide(before)) for before in found]
            for before, after in changed:
                self._write(db, after)
                keep_attempt(db, before, after)
                self._announce(db, after)
            return [after for _, after in changed]

    def next_expiry(self, leases: Leases) -> float | None:
        """Return when the next lease is over for good, or None."""
        first = select(func.min(_JOB.lease_until))
        with self._database.snapshot() as db:
            found = [
                (db.execute(first.where(wanted)).scalar(), more_s)
                for wanted, more_s in _held(leases)
            ]
        return min(
            (at + more_s for at, more_s in found if at is not None), default=None
        )

    def prune(self, *, before: float) -> int:
        """Remove jobs that ended before some time, with all that belongs to them; return how many."""
        old = (
            select(_JOB.id)
            .where(_JOB.state.in_(ENDED), _JOB.finished_at < before)
            .limit(_PRUNED_AT_ONCE)
        )
        removed = 0
        while True:
            with self._database.transaction() as db:
                ids = db.execute(old).scalars().all()
                for table, column in (
                    (TEXTS, TEXTS.c.id),
                    (ATTEMPTS, ATTEMPTS.c.job_id),
                    (JOBS, _JOB.id),
                ):
                    db.execute(delete(table).where(column.in_(ids)))
            removed += len(ids)
            if len(ids) < _PRUNED_AT_ONCE:
                return removed

    def _has_waiting(self, db: Connection, most: int) -> bool:
        return (
            db.execute(queries.NTH_QUEUED, {"before_it": most - 1}).first() is not None
        )

    def _others(
        self, db: Connection, submission: Submission, job: HubJob
    ) -> list[HubJob]:
        """Return the jobs that a new one may mean."""
        query = select(*COLUMNS).with_for_update()
        if job.urgent:
            query = query.where(_JOB.state.in_((*HELD, *WAITING)))
        elif submission.supersedes and rules.may_supersede(submission.document):
            query = query.where(
                _FOR_MACHINES,
                _JOB.repository == job.repository,
                _JOB.workflow == job.workflow,
            )
        else:
            return []
        return [read_job(row) for row in db.execute(query).mappings()]

    def _turn(self, db: Connection, job: HubJob) -> int:
        """Return a new job's turn: after those of its own repository, and not before the turn that it is now.

        So a repository with many jobs waiting has one of them taken for each one of the others
        (start-time fair queueing, with every job of the same cost).
        """
        like = {"of_priority": job.priority, "of_repository": job.repository}
        first, last = db.execute(queries.TURNS, like).one()
        return max(first or 0, -1 if last is None else last + 1)

    def _insert(self, db: Connection, job: HubJob) -> bool:
        values = values_of(job)
        if self._database.is_shared:
            return db.execute(queries.INSERT_ONCE, values).first() is not None
        # Nobody else can write between these two.
        if db.execute(queries.POSITION, {"of_id": job.id}).first():
            return False
        db.execute(queries.INSERT, values)
        return True

    def _announce(self, db: Connection, job: HubJob) -> None:
        news = News.of(job)
        if news is not None:
            self._database.announce(db, news.words)

    def _write(self, db: Connection, job: HubJob) -> None:
        db.execute(queries.UPDATE, {**values_of(job), "of_id": job.id})


def _held(leases: Leases) -> list[tuple[ColumnElement[bool], float]]:
    """Return the kinds of jobs that machines have, and how much longer than its lease each is left there (seconds)."""
    accepted, silent = _JOB.state == State.ACCEPTED, _JOB.phase == ""
    return [
        (_JOB.state == State.CLAIMED, 0.0),
        (and_(accepted, silent), leases.unheard_s),
        (and_(accepted, ~silent), leases.patience_s),
        (_JOB.state == State.RUNNING, leases.patience_s),
        (_JOB.state == State.NEEDS_ATTENTION, leases.patience_s),
    ]
