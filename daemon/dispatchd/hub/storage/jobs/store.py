"""Jobs in the database. Every call is one transaction, and its changes are durable when it returns."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    false,
    func,
    or_,
    select,
    true,
    update,
)

from dispatchd.hub.config.load import Leases
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.errors import Locked
from dispatchd.hub.domain.events import News
from dispatchd.hub.domain.model import ENDED, HELD, Claimed, HubJob, State
from dispatchd.hub.domain.supersede import after_targets
from dispatchd.hub.storage.database import Database, announce, origin_of
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.requeues import forget_requeues
from dispatchd.hub.storage.jobs.rows import COLUMNS, read_job, write_job
from dispatchd.hub.storage.jobs.turns import pass_turn
from dispatchd.hub.storage.schema import (
    ARTIFACTS,
    ATTEMPTS,
    CHECKS,
    JOBS,
    MACHINES,
    TEXTS,
)

_JOB: Final = JOBS.c
_EXPIRED_AT_ONCE: Final = 100
"""Most claims that expire in one transaction (count)."""

_PRUNED_AT_ONCE: Final = 500


@frozen
class JobStore:
    """Jobs of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def claim(
        self,
        machine: str,
        token_hash: str,
        workflows: Sequence[str] | None,
        *,
        now: float,
        lease_s: float,
        binding: Binding = FREE,
    ) -> Claimed | None:
        """Claim the next job for a machine: urgent ones first, then by priority, turn and age.

        Args:
            machine: The machine's server id.
            token_hash: The hash of the claim's token.
            workflows: Workflows that the machine declares; None for a machine that takes any job.
            now: The time (seconds since the epoch).
            lease_s: Length of the claim's lease (seconds).
            binding: Binding of the machine, set by the hub's owner.

        Raises:
            Locked: There may be a job, but other transactions have locked all of them.
        """
        parameters: dict[str, Any] = {"asking_machine": machine}
        query, there = queries.NEXT, queries.ANY_NEXT
        if workflows is not None:
            query, there = queries.NEXT_DECLARED, queries.ANY_NEXT_DECLARED
            parameters["declared"] = list(workflows)
        if not binding.is_free:
            within = queries.within(binding)
            query, there = query.where(within), there.where(within)

        def work(db: Connection) -> Claimed | None:
            row = db.execute(query, parameters).mappings().first()
            if row is None:
                if self._database.is_shared and db.execute(there, parameters).first():
                    raise Locked
                return None
            before = read_job(row)
            job = claim_rules.claim(
                before, machine, token_hash, now=now, lease_until=now + lease_s
            )
            write_job(db, before, job)
            texts = db.execute(queries.TEXTS_OF, {"of_id": job.id}).one()
            # Last, because other claims wait for it.
            pass_turn(db, job)
            return Claimed(
                job=job, before=before, payload=texts.payload, headers=texts.headers
            )

        return self._database.write(work)

    def change(
        self, job_id: str, decide: Callable[[HubJob], HubJob]
    ) -> tuple[HubJob, HubJob] | None:
        """Replace a job by the result of `decide`; return it before and after; return None if there is no such job.

        If `decide` raises, nothing changes.
        """

        def work(db: Connection) -> tuple[HubJob, HubJob] | None:
            row = db.execute(queries.LOCKED, {"of_id": job_id}).mappings().first()
            if row is None:
                return None
            before = read_job(row)
            after = decide(before)
            if after != before:
                write_job(db, before, after)
            return before, after

        return self._database.write(work)

    def expire(
        self,
        decide: Callable[[HubJob], HubJob],
        *,
        now: float,
        leases: Leases,
        heard_since: float = 0.0,
    ) -> list[HubJob]:
        """Replace jobs whose lease and additional time (`_held`) are over by the results of `decide`, and return these.

        Machines could be heard since `heard_since`: each lease lasts for its full length from then on.
        """
        held_until = heard_since + leases.seconds
        over = [
            and_(condition, _JOB.lease_until <= now - more_s)
            for condition, more_s in _held(leases)
            if held_until <= now - more_s
        ]
        query = (
            select(*COLUMNS)
            .where(or_(false(), *over))
            .limit(_EXPIRED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )

        def work(db: Connection) -> list[HubJob]:
            jobs = [read_job(row) for row in db.execute(query).mappings()]
            changed = [(before, decide(before)) for before in jobs]
            for before, after in changed:
                write_job(db, before, after)
            return [after for _, after in changed]

        return self._database.write(work)

    def shorten_leases(self, leases: Leases, *, now: float, also: bool) -> None:
        """Let no lease last longer than one that begins now, where the hub's clock was ahead when it was written down.

        That is so of all that are longer where the clock was set back (`also`), and always where the claim was made in
        a time that is still to come.
        """
        longest = now + leases.seconds + leases.patience_s
        is_wrong = _JOB.lease_until > longest
        if not also:
            is_wrong = and_(is_wrong, _JOB.claimed_at > now + leases.seconds)
        held = _JOB.state.in_(HELD)
        change = update(JOBS).where(held, is_wrong).values(lease_until=longest)
        self._database.write(lambda db: db.execute(change))

    def end_cancel_jobs(self, *, now: float) -> list[HubJob]:
        """End the cancel jobs that wait for a machine although all their targets have ended; return them."""

        def work(db: Connection) -> list[HubJob]:
            waiting = [
                read_job(row) for row in db.execute(queries.CANCEL_JOBS).mappings()
            ]
            if not waiting:
                return []
            first = min(job.created_at for job in waiting)
            unended, aborted = (
                [
                    read_job(row)
                    for row in db.execute(query, {"since": first}).mappings()
                ]
                for query in (queries.UNENDED_TARGETS, queries.ABORTED_SINCE)
            )
            changed = []
            for before in waiting:
                recent = [
                    job for job in aborted if job.finished_at >= before.created_at
                ]
                after = after_targets(before, unended, recent, now=now)
                if after is not before:
                    write_job(db, before, after)
                    changed.append(after)
            return changed

        return self._database.write(work)

    def next_expiry(self, leases: Leases, *, heard_since: float = 0.0) -> float | None:
        """Return the time at which the next lease is over with its additional time (seconds since the epoch), or None."""
        first = select(func.min(_JOB.lease_until))
        with self._database.snapshot() as db:
            expiries = [
                (db.execute(first.where(condition)).scalar(), more_s)
                for condition, more_s in _held(leases)
            ]
        return min(
            (
                max(at, heard_since + leases.seconds) + more_s
                for at, more_s in expiries
                if at is not None
            ),
            default=None,
        )

    def announce(self, news: News) -> None:
        """Announce news to the other hub processes of a shared database."""
        self._database.write(lambda db: announce(db, news.text(origin_of(db))))

    def prune(self, *, before: float) -> int:
        """Remove jobs that ended before a time, with all that belongs to them; return their number.

        A job with a pending check stays.
        """
        pending = select(CHECKS.c.job_id).where(CHECKS.c.owed == true())
        old = (
            select(_JOB.id)
            .where(_JOB.state.in_(ENDED), _JOB.finished_at < before)
            .where(_JOB.id.not_in(pending))
            .limit(_PRUNED_AT_ONCE)
        )

        def work(db: Connection) -> int:
            ids = db.execute(old).scalars().all()
            for table, column in (
                (TEXTS, TEXTS.c.id),
                (ATTEMPTS, ATTEMPTS.c.job_id),
                (CHECKS, CHECKS.c.job_id),
                (ARTIFACTS, ARTIFACTS.c.job_id),
                (JOBS, _JOB.id),
            ):
                db.execute(delete(table).where(column.in_(ids)))
            forget_requeues(db, ids)
            return len(ids)

        removed = 0
        while True:
            count = self._database.write(work)
            removed += count
            if count < _PRUNED_AT_ONCE:
                return removed


def _held(leases: Leases) -> list[tuple[ColumnElement[bool], float]]:
    """Return the kinds of jobs that machines have, each with its additional time after the lease (seconds)."""
    revoked, valid = (
        select(MACHINES.c.server_id).where(condition)
        for condition in (MACHINES.c.revoked_at > 0, MACHINES.c.revoked_at == 0)
    )
    # Of a machine that was revoked nothing is heard any more, unless it was added again under another name.
    may_speak = or_(_JOB.machine.not_in(revoked), _JOB.machine.in_(valid))
    silent = and_(_JOB.phase == "", may_speak)
    accepted = _JOB.state == State.ACCEPTED
    return [
        (_JOB.state == State.CLAIMED, 0.0),
        (and_(accepted, silent), leases.unheard_s),
        (and_(accepted, ~silent), leases.patience_s),
        (_JOB.state == State.RUNNING, leases.patience_s),
        (_JOB.state == State.NEEDS_ATTENTION, leases.patience_s),
    ]
