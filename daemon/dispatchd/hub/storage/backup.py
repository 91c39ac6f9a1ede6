"""Backup and restore of either kind of database: all rows at one moment, as an SQLite file.

The key that signs the sessions of the web page is left out: nobody is logged in after a restore.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from attrs import frozen
from sqlalchemy import (
    Connection,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from dispatchd.errors import UsageError
from dispatchd.hub.storage.artifacts.backup import get_artifacts, put_artifacts
from dispatchd.hub.storage.artifacts.store import ARTIFACT_MARK
from dispatchd.hub.storage.database import Database, is_postgresql
from dispatchd.hub.storage.engines.reasons import reason_of
from dispatchd.hub.storage.logs.backup import get_logs, put_logs
from dispatchd.hub.storage.logs.store import FOLDER_MARK
from dispatchd.hub.storage.migrate import REVISION, revision_of
from dispatchd.hub.storage.schema import (
    COUNTS,
    JOBS,
    LICENSES,
    MACHINES,
    MARKS,
    METADATA,
    PAGE_KEY,
    SECRETS,
)

_ROWS: Final = 500
"""Rows that are copied at a time (count)."""

_FOLDER_MARKS: Final = (FOLDER_MARK, ARTIFACT_MARK)
"""Marks with the ids of folders: each hub has folders of its own."""

_MADE_BY_INIT: Final = (SECRETS, LICENSES)
"""Tables that a new hub has filled already; a restore replaces their rows. Its first token stays."""


_FILLED: Final = ("tokens", "licenses", "machines", "jobs")
"""Tables of which a hub has filled at least one."""


@frozen(kw_only=True)
class Folders:
    """Folders whose files belong to a backup; None for one that doesn't."""

    logs: Path | None = None
    artifacts: Path | None = None


_NONE: Final = Folders()


@frozen(kw_only=True)
class Written:
    """A backup: its rows (count), and files that could not be read, with the reason."""

    rows: int
    left_out: tuple[str, ...] = ()


def backup(database: Database, file: Path, folders: Folders = _NONE) -> Written:
    """Write a backup; the hub may run meanwhile.

    Args:
        database: The database.
        file: The file of the backup.
        folders: The folders whose files belong to it.

    Raises:
        UsageError: The file exists already, or its folder doesn't.
    """
    cannot = f"back up to {file}"
    if file.exists():
        raise UsageError(cannot=cannot, reason="it is there already")
    if not file.parent.is_dir():
        # Never made here: a disk may not be mounted.
        reason = f"there is no folder {file.parent}; make it, or mount its disk"
        raise UsageError(cannot=cannot, reason=reason)
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)
    with ExitStack() as undo:
        for suffix in ("", "-wal", "-shm", "-journal"):
            beside = aside.with_name(aside.name + suffix)
            undo.callback(beside.unlink, missing_ok=True)
        written = _written(database, aside, folders)
        _sync(aside)
        aside.replace(file)
        undo.pop_all()
    _sync(file.parent)
    return written


def _written(database: Database, aside: Path, folders: Folders) -> Written:
    """Copy a database into a new file of this user alone."""
    left_out: list[str] = []
    target = Database.open(f"sqlite:///{aside.absolute()}")
    try:
        with database.snapshot() as source:
            rows = target.write(lambda copy: _copy(source, copy))
        # After the rows: a log of a job that the backup doesn't have does no harm.
        if (logs := folders.logs) is not None:
            left_out += target.write(lambda copy: put_logs(copy, logs))
        if (artifacts := folders.artifacts) is not None:
            left_out += target.write(lambda copy: put_artifacts(copy, artifacts))
        with target.engine.connect() as plain:
            # One file, without a write-ahead log beside it.
            plain.exec_driver_sql("ROLLBACK")
            plain.exec_driver_sql("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
    aside.chmod(0o600)
    return Written(rows=rows, left_out=tuple(left_out))


def restore(file: Path, database: Database, folders: Folders = _NONE) -> int:
    """Restore a backup into a database without jobs and machines; return the number of rows.

    Args:
        file: The file of the backup; it is only read.
        database: The database.
        folders: The folders for the files that belong to it.

    Raises:
        UsageError: There is no such file, it is damaged, or it is no backup of a hub.
    """
    cannot = f"restore {file}"
    if not file.exists():
        raise UsageError(cannot=cannot, reason="there is no such file")
    place = Path(database.file).parent if database.file else None
    with _opened(file, place, cannot) as backup:
        rows = database.write(lambda db: _put(backup, db, cannot))
        try:
            if folders.logs is not None:
                get_logs(backup, folders.logs)
            if folders.artifacts is not None:
                get_artifacts(backup, folders.artifacts)
        except OSError as error:
            reason = f"the jobs are restored, and not all of their logs and artifacts: {error}"
            raise UsageError(cannot=cannot, reason=reason) from error
        return rows


@contextmanager
def _opened(file: Path, place: Path | None, cannot: str) -> Iterator[Connection]:
    """Yield a connection to a backup, with the tables of this release; one of an earlier release is copied to `place`.

    Raises:
        UsageError: The file is damaged, or it is no backup of a hub.
        NotReachable: A newer release wrote it.
    """
    # One beside it means that it was copied from a hub by hand, and its newest changes are in there.
    log = file.with_name(f"{file.name}-wal")
    if not log.exists():
        with _connected(file, "mode=ro&immutable=1") as plain:
            if _checked(plain, cannot) == REVISION:
                yield plain
                return
    # Changes are merged, and a backup of an earlier release is migrated, in a copy.
    with TemporaryDirectory(prefix="dispatchd-restore-", dir=place) as folder:
        copy = Path(folder) / "backup.db"
        shutil.copyfile(file, copy)
        if log.exists():
            shutil.copyfile(log, f"{copy}-wal")
            with _connected(copy, "mode=rw") as plain:
                _checked(plain, cannot)
        source = Database.open(f"sqlite:///{copy}")
        try:
            with source.snapshot() as backup:
                yield backup
        finally:
            source.close()


@contextmanager
def _connected(file: Path, options: str) -> Iterator[Connection]:
    """Yield a connection with some options; one to an immutable file neither changes it nor makes others beside it.

    By https://sqlite.org/uri.html.
    """
    uri = f"{file.absolute().as_uri()}?{options}"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False),
        poolclass=NullPool,
    )
    with engine.connect() as db:
        yield db


def _checked(backup: Connection, cannot: str) -> str:
    """Check a backup, and return the number of its last migration.

    Raises:
        UsageError: It is damaged, or it is no backup of a hub.
    """
    revision, is_filled = "", False
    try:
        damage = backup.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if damage == "ok":
            revision = revision_of(backup)
            tables = set(inspect(backup).get_table_names())
            is_filled = any(
                backup.execute(text(f"SELECT 1 FROM {table} LIMIT 1")).first()  # noqa: S608  # a table of ours
                for table in _FILLED
                if table in tables
            )
    except SQLAlchemyError as error:
        damage = reason_of(error)
    if damage != "ok":
        reason = f"the file is damaged ({damage}); take another one"
        raise UsageError(cannot=cannot, reason=reason)
    if not revision or not is_filled:
        reason = "it is no backup of a hub, or an empty one; take another one"
        raise UsageError(cannot=cannot, reason=reason)
    return revision


def _put(backup: Connection, db: Connection, cannot: str) -> int:
    """Copy a backup, and return the number of rows.

    Raises:
        UsageError: The database is in use.
    """
    for table in (JOBS, MACHINES):
        if db.execute(select(func.count()).select_from(table)).scalar():
            reason = f"the database has {table.name} already; restore into a new one"
            raise UsageError(cannot=cannot, reason=reason)
    for table in _MADE_BY_INIT:
        db.execute(table.delete())
    rows = _copy(backup, db)
    if is_postgresql(db):
        db.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('jobs', 'position'), (SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), false)"
            )
        )
    return rows


def _copy(source: Connection, target: Connection) -> int:
    rows = 0
    # The counts last: each copied job has changed those of the copy.
    for table in (
        *(table for table in METADATA.sorted_tables if table is not COUNTS),
        COUNTS,
    ):
        query = select(table)
        if table is COUNTS:
            target.execute(delete(COUNTS))
        if table is SECRETS:
            # With this key a holder of the backup could forge an owner's session; a hub without one makes a new one.
            query = query.where(SECRETS.c.name != PAGE_KEY)
        if table is MARKS:
            query = query.where(MARKS.c.name.not_in(_FOLDER_MARKS))
        cursor = source.execute(query.execution_options(yield_per=_ROWS))
        for part in cursor.mappings().partitions(_ROWS):
            target.execute(insert(table), [dict(row) for row in part])
            rows += len(part)
    return rows


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
