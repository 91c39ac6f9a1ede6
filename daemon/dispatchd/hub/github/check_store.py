"""Durable checks: what GitHub has been told of each job, and what it still has to be told (the outbox).

A row is made with its job, in one transaction. Whoever changes a job's state marks its row as owed in that
same transaction (`job_rows.write_job`); the publisher pays what is owed and is the only one who writes the rest.
"""

from collections.abc import Collection
from typing import Any, Final

from attrs import asdict, fields, frozen
from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)

from dispatchd.hub.database import Database
from dispatchd.hub.job_rows import COLUMNS, read_job
from dispatchd.hub.model import ENDED, Check, HubJob, State
from dispatchd.hub.schema import CHECKS, JOBS

LONGEST_WAIT_S: Final = 3600.0
"""How long a check waits at most for its next try (seconds)."""

_CHECK: Final = CHECKS.c
_KEY: Final = (_CHECK.repository, _CHECK.sha, _CHECK.name)
_CONCLUDING: Final = _CHECK.state.in_((*ENDED, State.NEEDS_ATTENTION))
"""Somebody may wait for these to merge."""


@frozen
class Owed:
    """A check about which GitHub may have to be told something, and its job as it is now."""

    check: Check
    job: HubJob
    is_newest: bool = True
    """Whether no newer job has a check of the same name on the same commit: GitHub counts what was made last."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Repository, commit and name. Of each such key GitHub counts one check, the newest."""
        return self.check.repository, self.check.sha, self.check.name


COLUMNS_OF_CHECK: Final = [_CHECK[each.name] for each in fields(Check)]
_TOLD: Final = (
    *("told", "round", "kind", "check_run_id"),
    *("asked", "failures", "retry_at", "trouble"),
)
_SAME: Final = _CHECK.job_id == bindparam("of_job")
_MOVED: Final = _CHECK.state != bindparam("seen_state")
_UPDATE: Final = (
    update(CHECKS)
    .where(_SAME)
    .values(
        {
            **{name: bindparam(f"new_{name}") for name in _TOLD},
            # The job may have moved on since it was looked at.
            "owed": case((_MOVED, true()), else_=bindparam("new_owed")),
            "retry_at": case((_MOVED, 0.0), else_=bindparam("new_retry_at")),
        }
    )
)


@frozen
class CheckStore:
    """The checks of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def due(
        self,
        *,
        now: float,
        limit: int,
        without: Collection[tuple[str, str, str]] = (),
        closed: Collection[int] = (),
    ) -> list[Owed]:
        """Return what is owed and due: conclusions first, and of each kind that which waits longest.

        Args:
            now: The time.
            limit: How many (count).
            without: Keys (`Owed.key`) of which something is being told already.
            closed: Installations that may not be told anything now.
        """
        # A clock that was set back must not keep anything waiting until it has caught up.
        is_due = or_(_CHECK.retry_at <= now, _CHECK.retry_at > now + 2 * LONGEST_WAIT_S)
        query = (
            _with_job()
            .where(_CHECK.owed == true(), is_due)
            .where(~tuple_(*_KEY).in_(without), _CHECK.installation.not_in(closed))
            .order_by(_CHECK.retry_at)
        )
        with self._database.snapshot() as db:
            found = _read(db, query.where(_CONCLUDING).limit(limit))
            if (rest := limit - len(found)) > 0:
                found += _read(db, query.where(~_CONCLUDING).limit(rest))
            return found

    def get(self, job_id: str) -> Owed | None:
        """Return a job's check and the job, or None."""
        with self._database.snapshot() as db:
            found = _read(db, _with_job().where(_CHECK.job_id == job_id))
            return found[0] if found else None

    def next_due_at(self, *, now: float) -> float | None:
        """Return when something that is owed and not due yet is due, or None if nothing is."""
        query = select(func.min(_CHECK.retry_at)).where(
            _CHECK.owed == true(), _CHECK.retry_at > now
        )
        with self._database.snapshot() as db:
            return db.execute(query).scalar()

    def keep(self, check: Check, *, seen_state: str) -> None:
        """Keep what has been told; it stays owed, and is due, if the job's state isn't the one seen any more."""
        found = asdict(check)
        values = {f"new_{name}": found[name] for name in (*_TOLD, "owed")}
        of = {"of_job": check.job_id, "seen_state": seen_state}

        def work(db: Connection) -> None:
            db.execute(_UPDATE, {**values, **of})

        self._database.write(work)

    def owed_count(self) -> tuple[int, int]:
        """Return how many checks are owed, and of how many of these telling has failed (counts)."""
        failing = func.sum(case((_CHECK.failures > 0, 1), else_=0))
        query = select(func.count(), failing).where(_CHECK.owed == true())
        with self._database.snapshot() as db:
            owed, failed = db.execute(query).one()
            return owed, failed or 0


def checks_of(db: Connection, sha: str, *repositories: str) -> list[Owed]:
    """Return the checks of a commit and their jobs, oldest first; in any repository, which is slow, if none is named."""
    query = _with_job().where(_CHECK.sha == sha)
    if repositories:
        query = query.where(_CHECK.repository.in_(repositories))
    return _read(db, query.order_by(JOBS.c.position))


def check_of(db: Connection, job_id: str) -> Owed | None:
    """Return a job's check and the job, or None."""
    found = _read(db, _with_job().where(_CHECK.job_id == job_id))
    return found[0] if found else None


_LATER: Final = CHECKS.alias("later")
_LATER_JOB: Final = JOBS.alias("later_job")
_IS_NEWEST: Final = ~(
    exists()
    .where(
        _LATER.c.repository == _CHECK.repository,
        _LATER.c.sha == _CHECK.sha,
        _LATER.c.name == _CHECK.name,
        _LATER_JOB.c.id == _LATER.c.job_id,
        _LATER_JOB.c.position > JOBS.c.position,
    )
    .correlate(CHECKS, JOBS)
)


def _with_job() -> Select[Any]:
    labelled = [each.label(f"check_{each.name}") for each in COLUMNS_OF_CHECK]
    columns = [*COLUMNS, *labelled, _IS_NEWEST.label("is_newest")]
    return select(*columns).join(JOBS, JOBS.c.id == _CHECK.job_id)


def _read(db: Connection, query: Select[Any]) -> list[Owed]:
    found: list[Owed] = []
    for row in db.execute(query).mappings():
        check = Check(
            **{each.name: row[f"check_{each.name}"] for each in COLUMNS_OF_CHECK}
        )
        job = read_job({each.name: row[each.name] for each in COLUMNS})
        found.append(Owed(check, job, bool(row["is_newest"])))
    return found
