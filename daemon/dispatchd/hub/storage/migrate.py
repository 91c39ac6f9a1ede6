"""Migration of a database to the tables of this release, in transactions that are committed one by one.

Each migration is a transaction, and its data step (`migrations/fill.py`) several: what is committed stays when the
process ends, and no lock on a table lasts for longer than one of them. Each transaction reads first where the database
is, under the lock of a writer (SQLite) or of the one process that migrates (PostgreSQL).

While a data step lasts, the table `alembic_version` has three parts: the newest migration of the release that began,
the migration whose jobs are being changed, and the position of the last changed one ("0005+0003+125000"). Every
release reads that as the number of a newer one than those before the first part, and refuses it.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import Any, Final

from attrs import define, evolve, frozen
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from dispatchd.errors import DispatchdError
from dispatchd.hub.storage.engines.sqlite import READ_ONLY
from dispatchd.hub.storage.migrations.fill import BEGINNING, Fill

REVISION: Final = "0011"
"""Number of the newest migration (`migrations/versions/`)."""

ROWS: Final = 5000
"""Jobs that a transaction changes (count)."""

_MIGRATING: Final = 0x64697370
"""Number of PostgreSQL's advisory lock that keeps two hub processes from migrating at once; arbitrary."""

_PATIENCE_S: Final = 60.0
"""Longest wait for locks of others before one transaction (seconds)."""

_PAUSE_S: Final = 0.5
"""Wait before another try (seconds): others that waited behind the last one go first."""

_LOCK_WAIT: Final = "2s"
"""Longest wait of a statement for a lock of a table: everybody else waits behind it meanwhile."""

_BLOCKED: Final = ("55P03", "40P01", "40001")
"""SQLSTATEs of errors that another transaction causes: lock_not_available, deadlock_detected, serialization_failure
(PostgreSQL docs, Appendix A)."""

_PRIMARY: Final = 0xFF
"""Bits of an SQLite error code that are its primary one (sqlite.org/rescode.html)."""


class NewerDatabase(DispatchdError):
    """Database that a newer release has migrated, or has begun to."""


@define
class Migrating:
    """Progress of a migration, for who waits for it."""

    step: str = ""
    """Number of the migration in progress; empty before the first."""
    rows: int = 0
    """Changed jobs (count)."""
    of: int = 0
    """Jobs to change (count)."""
    waits_for: str = ""
    """Reason for its wait, such as another process; empty for none."""

    def begin(self, step: str, of: int = 0) -> None:
        """Note that a migration begins, or continues with some jobs to change."""
        self.step, self.rows, self.of = step, 0, of

    def changed(self, rows: int) -> None:
        """Note changed jobs."""
        self.rows += rows

    def wait_for(self, what: str) -> None:
        """Note what has to end first; empty for nothing."""
        self.waits_for = what


@frozen
class _Version:
    """Migrations that a database has."""

    revision: str
    newest: str = REVISION
    """Newest migration of the release that wrote it."""
    filled: int | None = None
    """Position of the last job that the data step of `revision` has changed; None if that has ended."""

    @classmethod
    def of(cls, version: str) -> "_Version":
        """Return what the table `alembic_version` says."""
        newest, *step = version.split("+")
        if not step:
            return cls(version, newest=version)
        return cls(step[0], newest=newest, filled=int(step[1]))

    @override
    def __str__(self) -> str:
        if self.filled is None:
            return self.revision
        return f"{REVISION}+{self.revision}+{self.filled}"


def migrate(engine: Engine, progress: Migrating) -> None:
    """Run the migrations that a database lacks.

    Args:
        engine: Engine of the database.
        progress: Is kept up to date.

    Raises:
        NewerDatabase: It has some that this release doesn't know.
        SQLAlchemyError: The database can't be used, or others lock it for too long.
    """
    if engine.dialect.name == "postgresql":
        with _alone(engine, progress) as db:
            _in_steps(partial(_committed, db), progress)
    elif not _is_current(engine):
        _in_steps(lambda work: _begun(engine, work), progress)


def revision_of(db: Connection) -> str:
    """Return the number of a database's last migration, with the state of its data step; empty for none."""
    if not inspect(db).has_table("alembic_version"):
        return ""
    return str(db.execute(text("SELECT version_num FROM alembic_version")).scalar())


_Work = Callable[[Connection], bool]


def _in_steps(transaction: Callable[[_Work], bool], progress: Migrating) -> None:
    """Run transactions until nothing is left to do."""
    while _patiently(partial(transaction, partial(_step, progress)), progress):
        pass


def _committed(db: Connection, work: _Work) -> bool:
    with db.begin():
        return work(db)


def _begun(engine: Engine, work: _Work) -> bool:
    with engine.begin() as db:
        return work(db)


def _patiently(step: Callable[[], bool], progress: Migrating) -> bool:
    """Run a step, again and again while others have locks that it needs; return whether more is to do.

    Raises:
        DBAPIError: It failed, or others have the locks for too long.
    """
    until = time.monotonic() + _PATIENCE_S  # the process has no other clock yet
    while True:
        try:
            more = step()
        except DBAPIError as error:
            if not _is_blocked(error) or time.monotonic() > until:  # likewise
                raise
            progress.wait_for("a lock that another process has")
            Event().wait(_PAUSE_S)
        else:
            progress.wait_for("")
            return more


def _is_blocked(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY
    state = getattr(error.orig, "sqlstate", None)
    return code == sqlite3.SQLITE_BUSY or state in _BLOCKED


def _is_current(engine: Engine) -> bool:
    """Return whether an SQLite database has all migrations. It takes no writer's lock, which is seldom free in a busy hub."""
    with engine.connect().execution_options(**{READ_ONLY: True}) as db, db.begin():
        return revision_of(db) == REVISION


def _step(progress: Migrating, db: Connection) -> bool:
    """Make the next step of a migration, in a transaction; return whether more is to do.

    Raises:
        NewerDatabase: A newer release has begun one.
    """
    revision = revision_of(db)
    if revision == REVISION:
        return False
    version = _Version.of(revision)
    if version.newest > REVISION:
        raise NewerDatabase
    from dispatchd.hub.storage.migrations import steps  # noqa: PLC0415  # see there

    fills = steps.fills()
    if version.filled is not None:
        _write(db, _fill(db, version, version.filled, fills, progress))
        return True
    step = steps.after(version.revision)
    progress.begin(step)
    steps.upgrade(db, step)
    if step in fills:
        _write(db, _Version(step, filled=BEGINNING))
    return True


def _fill(
    db: Connection,
    version: _Version,
    last: int,
    fills: Mapping[str, Fill],
    progress: Migrating,
) -> _Version:
    """Change the next jobs in the data step of a migration, and return the version after that."""
    fill = fills[version.revision]
    if not progress.of or progress.step != version.revision:
        progress.begin(version.revision, of=fill.count(db, last))
    changed = fill.change(db, last, ROWS)
    progress.changed(len(changed))
    if len(changed) == ROWS:
        return evolve(version, filled=changed[-1])
    fill.finish(db)
    return evolve(version, filled=None)


def _write(db: Connection, version: _Version) -> None:
    write = text("UPDATE alembic_version SET version_num = :version")
    db.execute(write, {"version": str(version)})


@contextmanager
def _alone(engine: Engine, progress: Migrating) -> Iterator[Connection]:
    """Yield a connection to PostgreSQL while no other process migrates.

    Its statements have no time limit. It is closed afterwards, and the lock with it.
    """
    with engine.connect() as db:
        db.detach()
        connection: Any = db.connection.dbapi_connection
        with connection.patient():
            _set(db, statement_timeout="0", lock_timeout="0")
            progress.wait_for("another hub process, which migrates the database")
            db.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATING})
            progress.wait_for("")
            _set(db, lock_timeout=_LOCK_WAIT)
            db.commit()
            yield db


def _set(db: Connection, **limits: str) -> None:
    for name, value in limits.items():
        db.execute(
            text("SELECT set_config(:name, :value, false)"),
            {"name": name, "value": value},
        )
