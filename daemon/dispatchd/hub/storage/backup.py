"""Backup and restore of either kind of database: all rows at one moment, as an SQLite file.

The key that signs the sessions of the web page is left out: nobody is logged in after a restore.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, text

from dispatchd.errors import UsageError
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

_MADE_BY_INIT: Final = (SECRETS, LICENSES)
"""Tables that a new hub has filled already; a restore replaces their rows. Its first token stays."""


def backup(database: Database, file: Path, logs: Path | None = None) -> int:
    """Write a backup and return the number of rows; the hub may run meanwhile.

    Args:
        database: The database.
        file: The file of the backup.
        logs: The folder of the logs; None to leave them out.

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
        rows = _written(database, aside, logs)
        _sync(aside)
        aside.replace(file)
        undo.pop_all()
    _sync(file.parent)
    return rows


def _written(database: Database, aside: Path, logs: Path | None) -> int:
    """Copy a database into a new file of this user alone, and return the number of rows."""
    target = Database.open(f"sqlite:///{aside.absolute()}")
    try:
        with database.snapshot() as source:
            rows = target.write(lambda copy: _copy(source, copy))
        if logs is not None:
            # After the rows: a log of a job that the backup doesn't have does no harm.
            target.write(lambda copy: put_logs(copy, logs))
        with target.engine.connect() as plain:
            # One file, without a write-ahead log beside it.
            plain.exec_driver_sql("ROLLBACK")
            plain.exec_driver_sql("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
    aside.chmod(0o600)
    return rows


def restore(file: Path, database: Database, logs: Path | None = None) -> int:
    """Restore a backup into a database without jobs and machines; return the number of rows.

    Args:
        file: The file of the backup.
        database: The database.
        logs: The folder of the logs; None to leave them in the backup.

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
            if logs is not None:
                try:
                    get_logs(backup, logs)
                except OSError as error:
                    reason = f"the jobs are restored, and their logs are not: {error}"
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
            # Each hub has a folder of its own.
            query = query.where(MARKS.c.name != FOLDER_MARK)
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
