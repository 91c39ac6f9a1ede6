"""Backup and restore of either kind of database: all rows at one moment, as an SQLite file.

The key that signs the sessions of the web page is left out: nobody is logged in after a restore.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, delete, func, insert, select, text

from dispatchd.errors import UsageError
from dispatchd.hub.storage.artifacts.backup import get_artifacts, put_artifacts
from dispatchd.hub.storage.artifacts.store import ARTIFACT_MARK
from dispatchd.hub.storage.database import Database, is_postgresql
from dispatchd.hub.storage.logs.backup import get_logs, put_logs
from dispatchd.hub.storage.logs.store import FOLDER_MARK
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
        UsageError: The file exists already.
    """
    if file.exists():
        raise UsageError(cannot=f"back up to {file}", reason="it is there already")
    aside = file.with_name(file.name + ".part")
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
        file: The file of the backup.
        database: The database.
        folders: The folders for the files that belong to it.

    Raises:
        UsageError: There is no such file, or it is damaged.
    """
    cannot = f"restore {file}"
    if not file.exists():
        raise UsageError(cannot=cannot, reason="there is no such file")
    source = Database.open(f"sqlite:///{file.absolute()}")
    try:
        with source.snapshot() as backup:
            damage = backup.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
            if damage != "ok":
                reason = f"the file is damaged ({damage}); take another one"
                raise UsageError(cannot=cannot, reason=reason)
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
    finally:
        source.close()


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
