"""Checks in the database: the last published state of each job, and what is pending (the outbox).

A row is made with its job, in one transaction. Each change of a job's state marks its row as pending (`owed`) in that
same transaction (`job_rows.write_job`). The publisher publishes pending rows, and only it writes the other columns.
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

from dispatchd.hub.domain.model import ENDED, Check, HubJob, State
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.rows import COLUMNS, read_job
from dispatchd.hub.storage.schema import CHECKS, JOBS

LONGEST_WAIT_S: Final = 3600.0
"""Longest wait of a check for its next try (seconds)."""

_CHECK: Final = CHECKS.c
_KEY: Final = (_CHECK.repository, _CHECK.sha, _CHECK.name)
_CONCLUDING: Final = _CHECK.state.in_((*ENDED, State.NEEDS_ATTENTION))
"""Checks that are published first: a merge may wait for them."""


@frozen
class JobCheck:
    """Check of a job, and the job as it is now."""

    check: Check
    job: HubJob
    is_newest: bool = True
    """True if no newer job has a check of the same name on the same commit: for GitHub the one made last counts."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Repository, commit and name. Of each such key GitHub counts one check, the newest."""
        return self.check.repository, self.check.sha, self.check.name


COLUMNS_OF_CHECK: Final = [_CHECK[field.name] for field in fields(Check)]
_PUBLISHED: Final = (
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
            **{name: bindparam(f"new_{name}") for name in _PUBLISHED},
            # The job's state may have changed since it was read.
            "owed": case((_MOVED, true()), else_=bindparam("new_owed")),
            "retry_at": case((_MOVED, 0.0), else_=bindparam("new_retry_at")),
        }
    )
)


@frozen
class CheckStore:
    """Checks of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def due(
        self,
        *,
        now: float,
        limit: int,
        without: Collection[tuple[str, str, str]] = (),
        closed: Collection[int] = (),
    ) -> list[JobCheck]:
        """Return the pending checks that are due: conclusions first, and within each group the longest wait first.

        Args:
            now: The time (seconds since the epoch).
            limit: Most checks to return (count).
            without: Keys (`JobCheck.key`) that are being published already.
            closed: Installations that may not be called now.
        """
        # A clock that was set back must not delay checks until it has caught up.
        is_due = or_(_CHECK.retry_at <= now, _CHECK.retry_at > now + 2 * LONGEST_WAIT_S)
        query = (
            _with_job()
            .where(_CHECK.owed == true(), is_due)
            .where(~tuple_(*_KEY).in_(without), _CHECK.installation.not_in(closed))
            .order_by(_CHECK.retry_at)
        )
        with self._database.snapshot() as db:
            checks = _read(db, query.where(_CONCLUDING).limit(limit))
            if (rest := limit - len(checks)) > 0:
                checks += _read(db, query.where(~_CONCLUDING).limit(rest))
            return checks

    def get(self, job_id: str) -> JobCheck | None:
        """Return a job's check and the job, or None."""
        with self._database.snapshot() as db:
            checks = _read(db, _with_job().where(_CHECK.job_id == job_id))
            return checks[0] if checks else None

    def next_due_at(self, *, now: float) -> float | None:
        """Return the time at which the next pending check is due (seconds since the epoch), or None if none waits."""
        query = select(func.min(_CHECK.retry_at)).where(
            _CHECK.owed == true(), _CHECK.retry_at > now
        )
        with self._database.snapshot() as db:
            return db.execute(query).scalar()

    def keep(self, check: Check, *, seen_state: str) -> None:
        """Store what was published. The check stays pending, and is due, if the job's state is no longer `seen_state`."""
        row = asdict(check)
        values = {f"new_{name}": row[name] for name in (*_PUBLISHED, "owed")}
        of = {"of_job": check.job_id, "seen_state": seen_state}

        def work(db: Connection) -> None:
            db.execute(_UPDATE, {**values, **of})

        self._database.write(work)

    def failing(self, most: int) -> list[JobCheck]:
        """Return pending checks whose publication has failed, at most so many, with the next due first."""
        query = _with_job().where(_CHECK.owed == true(), _CHECK.failures > 0)
        with self._database.snapshot() as db:
            return _read(db, query.order_by(_CHECK.retry_at).limit(most))

    def pending_count(self) -> tuple[int, int]:
        """Return the number of pending checks, and of those whose publication has failed (counts)."""
        failing = func.sum(case((_CHECK.failures > 0, 1), else_=0))
        query = select(func.count(), failing).where(_CHECK.owed == true())
        with self._database.snapshot() as db:
            pending, failed = db.execute(query).one()
            return pending, failed or 0


def checks_of(db: Connection, sha: str, *repositories: str) -> list[JobCheck]:
    """Return the checks of a commit and their jobs, oldest first; in any repository, which is slow, if none is named."""
    query = _with_job().where(_CHECK.sha == sha)
    if repositories:
        query = query.where(_CHECK.repository.in_(repositories))
    return _read(db, query.order_by(JOBS.c.position))


def check_of(db: Connection, job_id: str) -> JobCheck | None:
    """Return a job's check and the job, or None."""
    checks = _read(db, _with_job().where(_CHECK.job_id == job_id))
    return checks[0] if checks else None


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
    labelled = [column.label(f"check_{column.name}") for column in COLUMNS_OF_CHECK]
    columns = [*COLUMNS, *labelled, _IS_NEWEST.label("is_newest")]
    return select(*columns).join(JOBS, JOBS.c.id == _CHECK.job_id)


def _read(db: Connection, query: Select[Any]) -> list[JobCheck]:
    checks: list[JobCheck] = []
    for row in db.execute(query).mappings():
        check = Check(
            **{column.name: row[f"check_{column.name}"] for column in COLUMNS_OF_CHECK}
        )
        job = read_job({column.name: row[column.name] for column in COLUMNS})
        checks.append(JobCheck(check, job, bool(row["is_newest"])))
    return checks
