"""The hub's database: SQLite in one file, or PostgreSQL for several hub processes; migrated when it is opened.

What a call has changed is durable when it returns: SQLite syncs its log fully at each commit (WAL,
synchronous = FULL), PostgreSQL does so by default (synchronous_commit).

Several writers. SQLite has one at a time, which holds the lock of a writer from its first statement. On PostgreSQL
transactions run side by side (READ COMMITTED), so that "look, then write" sees what was, not what is. These rules
keep what is decided right on both:

1. Every change goes through `Database.write`, which owns the transaction and tries again what the server has refused
   because of another transaction: a deadlock, a serialization failure, a row that the other one inserted first. So a
   unit of work may run more than once, and keeps nothing outside its transaction.
2. A row that is changed by what it was is read FOR UPDATE (`job_queries.LOCKED`). Several are locked in the order of
   their positions. Who takes whichever is free skips those that are locked (`SKIP LOCKED`), and finding only such
   is no "nothing there" (`Locked`).
3. What is decided by rows that may not exist yet has a lock of its own (`lock`), taken before anything else: a
   repository for what its jobs mean for each other and for their turns, a server id for which machine has it.
4. A ledger is written by one statement that inserts or changes (`INSERT ... ON CONFLICT`): secrets, marks, licenses.
   A delivery is inserted if it is new, then locked, and its jobs are added to.
5. What has to be of one moment is read in a snapshot (REPEATABLE READ, READ ONLY): lists, metrics, a backup.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, TypeVar
from uuid import uuid4

from attrs import frozen
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    bindparam,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from dispatchd.errors import NotReachable, UsageError
from dispatchd.hub.model import StorageBusy
from dispatchd.hub.schema import Words

T = TypeVar("T")

CHANNEL: Final = "dispatchd_jobs"
"""Channel on which hub processes tell each other of jobs (NOTIFY of PostgreSQL)."""

REVISION: Final = "0004"
"""The newest migration (`migrations/versions/`), by its number."""

_BUSY_S: Final = 5.0
"""How long a call waits for SQLite, or for one of the connections, before it gives up (seconds)."""

_PROGRESS_S: Final = 5.0
"""How often it is said that a migration goes on (seconds)."""

_CONNECTIONS: Final = 10

_TRIES: Final = 5
"""How often a transaction is tried that another one keeps from succeeding (count)."""

_BECAUSE_OF_ANOTHER: Final = ("40001", "40P01", "23505")
"""SQLSTATEs of what another transaction has caused: serialization_failure, deadlock_detected, unique_violation
(PostgreSQL docs, Appendix A)."""

_READ_ONLY: Final = "dispatchd_read_only"
_ORIGIN: Final = "dispatchd_origin"
_NOTIFY: Final = text("SELECT pg_notify(:channel, :words)")
_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"
).bindparams(bindparam("name", type_=Words))
_LOCK_MIGRATION: Final = text("SELECT pg_advisory_xact_lock(:key)")
_WRITTEN: Final = text(
    "INSERT INTO secrets (name, value) VALUES ('written', '')"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_MIGRATING: Final = 0x64697370
"""The advisory lock of PostgreSQL that keeps two hub processes from migrating at once; any number would do."""


@frozen
class Database:
    """An open database whose tables are those of this release."""

    engine: Engine

    @classmethod
    def open(
        cls,
        url: str,
        progress: Callable[[], None] = lambda: None,
        every_s: float = _PROGRESS_S,
    ) -> "Database":
        """Open a database, create what is missing, and migrate what is older.

        Args:
            url: As SQLAlchemy has them: `sqlite:////path/to/file`, `postgresql://user@host/name`.
            progress: Called again and again, by a thread, while a migration takes long.
            every_s: How often (seconds).

        Raises:
            UsageError: The URL can't be used.
            NotReachable: The database can't be opened, or a newer release wrote it.
        """
        try:
            engine = _engine(url)
        except (ArgumentError, ModuleNotFoundError) as error:
            reason = f"{error}; expected sqlite:///FILE or postgresql://USER@HOST/NAME"
            raise UsageError(cannot="use database_url", reason=reason) from error
        except OSError as error:
            raise NotReachable(
                cannot=f"open the database {url}", reason=str(error)
            ) from error
        shown = engine.url.render_as_string(hide_password=True)
        try:
            with ExitStack() as opened, _saying(progress, every_s):
                opened.callback(engine.dispose)
                if engine.dialect.name == "postgresql":
                    with engine.begin() as db, _without_limits(db):
                        db.execute(_LOCK_MIGRATION, {"key": _MIGRATING})
                        _bring_up(db)
                elif not _is_current(engine):
                    with engine.begin() as db:
                        _bring_up(db)
                opened.pop_all()
        except _Newer as error:
            reason = "a newer release of dispatchd wrote it; install that one"
            raise NotReachable(
                cannot=f"open the database {shown}", reason=reason
            ) from error
        except (OSError, SQLAlchemyError) as error:
            raise NotReachable(
                cannot=f"open the database {shown}", reason=_words(error)
            ) from error
        return cls(engine)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @property
    def origin(self) -> str:
        """What the news of this process are known by, so that it doesn't hear its own."""
        return origin_of(self.engine)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use it at the same time."""
        return self.engine.dialect.name == "postgresql"

    def write(self, work: Callable[[Connection], T]) -> T:
        """Return what a unit of work returns, whose changes become durable together, or not at all.

        It is done again if another transaction has kept it from succeeding. Fails with StorageBusy if the database
        can't be used now.
        """
        for _ in range(_TRIES - 1):
            with suppress(_GaveWay), self.transaction() as db:
                return work(db)
        with self.transaction() as db:
            return work(db)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection whose changes become durable together at the end of the block: one try of `write`.

        Fails with StorageBusy if the database can't be used now.
        """
        try:
            with self.engine.begin() as db:
                yield db
        except SQLAlchemyError as error:
            other = _state(getattr(error, "orig", None)) in _BECAUSE_OF_ANOTHER
            kind = _GaveWay if other else StorageBusy
            raise kind(_words(error)) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection that reads one state of everything, and keeps nobody from writing.

        Raises:
            StorageBusy: The database can't be used now.
        """
        try:
            with (
                self.engine.connect().execution_options(**self._snapshot) as db,
                db.begin(),
            ):
                yield db
        except SQLAlchemyError as error:
            raise StorageBusy(_words(error)) from error

    @property
    def _snapshot(self) -> dict[str, Any]:
        if not self.is_shared:
            return {_READ_ONLY: True}
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def check(self) -> None:
        """Return if the tables are those of this release and a change can be made durable.

        Fails with StorageBusy if not.
        """
        self.write(_check)


def lock(db: Connection, name: str) -> None:
    """Keep others who want this lock waiting until the transaction ends."""
    if is_postgresql(db):
        db.execute(_LOCK, {"name": name})


def upsert(db: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can say what is done ON CONFLICT."""
    return postgresql.insert(table) if is_postgresql(db) else sqlite.insert(table)


def announce(db: Connection, words: str) -> None:
    """Send some words to every hub process on a shared database, once the transaction is committed."""
    if is_postgresql(db):
        db.execute(_NOTIFY, {"channel": CHANNEL, "words": words})


def origin_of(db: Engine | Connection) -> str:
    """Return what the news of this process are known by."""
    return str(db.get_execution_options()[_ORIGIN])


def is_postgresql(db: Connection) -> bool:
    """Return whether other processes may use the database at the same time."""
    return db.dialect.name == "postgresql"


class _GaveWay(StorageBusy):
    """Another transaction had to go first: the same one will most likely succeed now."""


def _check(db: Connection) -> None:
    """Write something.

    Raises:
        StorageBusy: Another release has migrated the database.
    """
    found = _revision(db)
    if found != REVISION:
        message = f"the tables are those of revision {found}, not {REVISION}"
        raise StorageBusy(message)
    db.execute(_WRITTEN)


class _Newer(Exception):
    """A newer release has migrated the database."""


def _is_current(engine: Engine) -> bool:
    """Return whether a SQLite database has all migrations, without a writer's lock, which a busy hub seldom leaves."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as db, db.begin():
        return _revision(db) == REVISION


def _bring_up(db: Connection) -> None:
    """Run the migrations that a database lacks.

    Raises:
        _Newer: It has some that this release doesn't know.
    """
    found = _revision(db)
    if found == REVISION:
        return
    if found > REVISION:
        raise _Newer
    from dispatchd.hub.migrate import upgrade  # noqa: PLC0415  # see there

    upgrade(db)


def _revision(db: Connection) -> str:
    """Return which migration a database has had last; empty for none."""
    if not inspect(db).has_table("alembic_version"):
        return ""
    return str(db.execute(text("SELECT version_num FROM alembic_version")).scalar())


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "sqlite":
        if parsed.database:
            file = Path(parsed.database)
            file.parent.mkdir(parents=True, exist_ok=True)
            # SQLite gives what it puts beside the file the same mode.
            file.touch(mode=0o600)
        # One connection: SQLite has one writer at a time, and to wait here is better than to be told "busy".
        engine = create_engine(
            parsed,
            execution_options={_ORIGIN: uuid4().hex},
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=_BUSY_S,
            connect_args={
                "timeout": _BUSY_S,
                "isolation_level": None,
                "check_same_thread": False,
            },
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "postgresql+psycopg":
        message = f"{parsed.drivername} is not supported"
        raise ArgumentError(message)
    engine = create_engine(
        parsed,
        execution_options={_ORIGIN: uuid4().hex},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_BUSY_S,
        pool_pre_ping=True,
    )
    event.listen(engine, "do_connect", _connect_postgresql)
    return engine


def _connect_postgresql(
    _dialect: object, _record: object, args: list[Any], parameters: dict[str, Any]
) -> object:
    # With the driver of PostgreSQL, which SQLite doesn't need.
    from dispatchd.hub.storage.postgresql import connect  # noqa: PLC0415

    return connect(*args, **parameters)


@contextmanager
def _saying(progress: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call something again and again for the length of the block."""
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


@contextmanager
def _without_limits(db: Connection) -> Iterator[None]:
    """Let statements of a transaction take as long as they need."""
    connection: Any = db.connection.dbapi_connection
    for name in ("statement_timeout", "lock_timeout"):
        db.execute(text(f"SET LOCAL {name} = 0"))
    connection.is_patient = True
    try:
        yield
    finally:
        connection.is_patient = False


def _set_up_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401  # SQLAlchemy's own kind of connection
    for each in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {each}")


def _begin_sqlite(db: Connection) -> None:
    if db.get_execution_options().get(_READ_ONLY):
        db.exec_driver_sql("BEGIN")
        return
    # With the lock of a writer from the start: who reads first and then writes may be refused in between.
    db.exec_driver_sql("BEGIN IMMEDIATE")


def _state(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", ""))


def _words(error: Exception) -> str:
    """Return what a database says, in one line and without the statement."""
    said = str(getattr(error, "orig", None) or error).strip()
    return " ".join(said.split()) or type(error).__name__
