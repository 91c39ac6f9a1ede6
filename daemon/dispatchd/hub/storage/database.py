"""The hub's database: SQLite in one file, or PostgreSQL for several hub processes; migrated when it is opened.

The changes of a call are durable when it returns: SQLite syncs its log fully at each commit (WAL,
synchronous = FULL), PostgreSQL does so by default (synchronous_commit).

Several writers. SQLite has one at a time, which holds the lock of a writer from its first statement: a thread that
makes all changes of the process, those that wait together in one transaction (`engines/writer.py`). Reads have
connections of their own, and keep no change waiting. On PostgreSQL transactions run concurrently (READ COMMITTED), so
that "read, then write" may decide by outdated rows. These rules keep decisions correct on both:

1. Every change goes through `Database.write`. It owns the transaction, and tries it again if the server has refused
   it because of another one: a deadlock, a serialization failure, a row that the other one inserted first. So a
   unit of work may run more than once, and has no effects outside its transaction.
2. A row whose new values depend on the old ones is read FOR UPDATE (`job_queries.LOCKED`). Several rows are locked in
   the order of their positions. A claim takes any free job and skips locked ones (`SKIP LOCKED`). Finding only locked
   ones doesn't mean that there is none (`Locked`).
3. A decision by rows that may not exist yet has a lock of its own (`lock`), taken before anything else: the
   repository, for jobs that supersede or cancel each other and for turns; the server id, for its machine.
4. Secrets, marks and licenses are written by one statement that inserts or updates (`INSERT ... ON CONFLICT`).
   A delivery is inserted if it is new; else it is locked, and jobs are added to it.
5. Lists, metrics and backups are read in a snapshot of one moment (REPEATABLE READ, READ ONLY).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from threading import Event, Thread
from typing import Any, Final, TypeVar

from attrs import frozen
from sqlalchemy import Connection, Engine, Table, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dispatchd.errors import NotReachable, UsageError
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.storage.engines.make import ORIGIN, Engines
from dispatchd.hub.storage.engines.pipeline import UNREAD, pipelined
from dispatchd.hub.storage.engines.reasons import reason_of
from dispatchd.hub.storage.engines.turns import settled
from dispatchd.hub.storage.engines.writer import Writer, in_savepoint
from dispatchd.hub.storage.migrate import (
    REVISION,
    Migrating,
    NewerDatabase,
    migrate,
    revision_of,
)
from dispatchd.hub.storage.schema import Words

T = TypeVar("T")

CHANNEL: Final = "dispatchd_jobs"
"""Channel on which hub processes announce changes of jobs to each other (NOTIFY of PostgreSQL)."""

_PROGRESS_S: Final = 5.0
"""Interval of progress reports during a migration (seconds)."""

_TRIES: Final = 5
"""Most tries of a transaction that conflicts with others (count)."""

_BECAUSE_OF_ANOTHER: Final = ("40001", "40P01", "23505")
"""SQLSTATEs of errors that another transaction causes: serialization_failure, deadlock_detected, unique_violation
(PostgreSQL docs, Appendix A)."""

_NOTIFY: Final = text("SELECT pg_notify(:channel, :message)")
_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"
).bindparams(bindparam("name", type_=Words))
_WRITTEN: Final = text(
    "INSERT INTO secrets (name, value) VALUES ('written', '')"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


@frozen
class Database:
    """An open database whose tables are those of this release."""

    engine: Engine
    """Engine of changes."""
    _readers: Engine
    """Engine of reads; on PostgreSQL the same."""
    writer: Writer | None
    """Thread that makes all changes; None where transactions run at the same time."""

    @classmethod
    def open(
        cls,
        url: str,
        progress: Callable[[Migrating], None] = lambda _: None,
        every_s: float = _PROGRESS_S,
        *,
        must_exist: bool = False,
    ) -> "Database":
        """Open a database, create missing tables, and run missing migrations.

        Args:
            url: URL in SQLAlchemy's form: `sqlite:////path/to/file`, `postgresql://user@host/name`.
            progress: Called repeatedly, by a thread, with the progress of a migration while it runs.
            every_s: Interval of these calls (seconds).
            must_exist: True to refuse a file that is missing or empty. Else it is made.

        Raises:
            UsageError: The URL can't be used.
            NotReachable: The database can't be opened, or a newer release has begun to migrate it.
        """
        try:
            engines = Engines.of(url, must_exist=must_exist)
        except (ArgumentError, ModuleNotFoundError, ValueError) as error:
            reason = f"{error}; expected sqlite:///FILE or postgresql://USER@HOST/NAME"
            raise UsageError(cannot="use database_url", reason=reason) from error
        except OSError as error:
            raise NotReachable(
                cannot=f"open the database {url}", reason=str(error)
            ) from error
        engine = engines.changes
        shown = engine.url.render_as_string(hide_password=True)
        migrating = Migrating()
        try:
            with (
                ExitStack() as opened,
                _saying(partial(progress, migrating), every_s),
            ):
                opened.callback(engines.dispose)
                migrate(engine, migrating)
                opened.pop_all()
        except NewerDatabase as error:
            reason = "a newer release of dispatchd wrote it; install that one"
            raise NotReachable(
                cannot=f"open the database {shown}", reason=reason
            ) from error
        except UnicodeDecodeError as error:
            reason = "its file is damaged; restore a backup into a new one"
            raise NotReachable(
                cannot=f"open the database {shown}", reason=reason
            ) from error
        except (OSError, SQLAlchemyError) as error:
            raise NotReachable(
                cannot=f"open the database {shown}", reason=reason_of(error)
            ) from error
        is_shared = engine.dialect.name == "postgresql"
        return cls(engine, engines.reads, None if is_shared else Writer(engine))

    def connect(self) -> None:
        """Open all connections for reads, which then need no descriptors any more.

        Raises:
            StorageBusy: The database can't be used now.
        """
        try:
            Engines(self.engine, self._readers).connect()
        except SQLAlchemyError as error:
            raise StorageBusy(reason_of(error)) from error

    def close(self) -> None:
        """Make the changes that wait, and close the connections."""
        if self.writer is not None:
            self.writer.close()
        Engines(self.engine, self._readers).dispose()

    @property
    def origin(self) -> str:
        """Id of this process in its news, so that it ignores its own."""
        return origin_of(self.engine)

    @property
    def is_shared(self) -> bool:
        """True if other processes may use it at the same time."""
        return self.engine.dialect.name == "postgresql"

    @property
    def file(self) -> str | None:
        """Path of the file that is the database; None for a server's."""
        return None if self.is_shared else self.engine.url.database

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run a unit of work in a transaction and return its result; its changes are committed together, or not at all.

        It is tried again if it conflicts with another transaction.

        Raises:
            StorageBusy: The database can't be used now.
        """
        if self.writer is not None:
            return self._in_turn(self.writer, work)
        for _ in range(_TRIES - 1):
            with suppress(_GaveWay), self.transaction() as db:
                return work(db)
        with self.transaction() as db:
            return work(db)

    def _in_turn(self, writer: Writer, work: Callable[[Connection], T]) -> T:
        db = writer.connection()
        if db is None:
            return settled(writer.add(lambda: self._in_turn(writer, work)))
        try:
            return in_savepoint(db, work)
        except SQLAlchemyError as error:
            raise StorageBusy(reason_of(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose changes are committed together at the end of the block: one try of `write`.

        Raises:
            StorageBusy: The database can't be used now.
        """
        try:
            with (
                self.engine.connect() as db,
                pipelined(db) if self.is_shared else nullcontext(),
                db.begin(),
            ):
                yield db
        except SQLAlchemyError as error:
            other = _state(getattr(error, "orig", None)) in _BECAUSE_OF_ANOTHER
            kind = _GaveWay if other else StorageBusy
            raise kind(reason_of(error)) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection that reads one consistent state, without blocking writers.

        A call of the writer's reads in its open transaction: it is answered after the commit of all that it has seen.

        Raises:
            StorageBusy: The database can't be used now.
        """
        db = None if self.writer is None else self.writer.connection()
        try:
            if db is not None:
                yield db
                return
            with (
                self._readers.connect().execution_options(**self._snapshot) as db,
                db.begin(),
            ):
                yield db
        except SQLAlchemyError as error:
            raise StorageBusy(reason_of(error)) from error

    @property
    def _snapshot(self) -> dict[str, Any]:
        if not self.is_shared:
            return {}
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """Yield a connection for one statement, which needs no transaction of its own.

        Raises:
            StorageBusy: The database can't be used now.
        """
        if not self.is_shared:
            with self.snapshot() as db:
                yield db
            return
        try:
            with self.engine.connect() as db:
                yield db.execution_options(isolation_level="AUTOCOMMIT")
        except SQLAlchemyError as error:
            raise StorageBusy(reason_of(error)) from error

    def check(self) -> None:
        """Check that the tables are those of this release, and that a change can be committed.

        Raises:
            StorageBusy: They aren't, or it can't.
        """
        self.write(_check)


def lock(db: Connection, name: str) -> None:
    """Lock a name until the transaction ends; others who want it wait. Without effect on SQLite."""
    if is_postgresql(db):
        db.execute(_LOCK, {"name": name}, execution_options=UNREAD)


def upsert(db: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can have an ON CONFLICT clause."""
    return postgresql.insert(table) if is_postgresql(db) else sqlite.insert(table)


def announce(db: Connection, message: str) -> None:
    """Send a message to every hub process of a shared database, once the transaction is committed."""
    if is_postgresql(db):
        said = {"channel": CHANNEL, "message": message}
        db.execute(_NOTIFY, said, execution_options=UNREAD)


def origin_of(db: Engine | Connection) -> str:
    """Return the id of this process in its news."""
    return str(db.get_execution_options()[ORIGIN])


def is_postgresql(db: Connection) -> bool:
    """Return whether other processes may use the database at the same time."""
    return db.dialect.name == "postgresql"


class _GaveWay(StorageBusy):
    """Conflict with another transaction: the next try will most likely succeed."""


def _check(db: Connection) -> None:
    """Commit a small change, if the tables are those of this release.

    Raises:
        StorageBusy: Another release has migrated the database.
    """
    revision = revision_of(db)
    if revision != REVISION:
        message = f"the tables are those of revision {revision}, not {REVISION}"
        raise StorageBusy(message)
    db.execute(_WRITTEN)


@contextmanager
def _saying(progress: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `progress` repeatedly until the block ends."""
    is_over = Event()

    def say() -> None:
        while not is_over.wait(every_s):
            progress()

    thread = Thread(target=say, name="progress of the migration", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _state(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", ""))
