"""Connections to SQLite: durable, with the writer's lock from the start, and to the file that they have opened."""

import os
import sqlite3
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.linux.untrusted_files import is_at

READ_ONLY: Final = "dispatchd_read_only"
"""Option of a connection whose transaction only reads."""

_FILE: Final = "dispatchd_file"

LOG_BYTES: Final = 64 * 1024 * 1024
"""Size from which on the log of changes (WAL) is emptied, although others read (bytes)."""

_READERS_END_S: Final = 0.5
"""Longest wait for reads that began before the log is emptied (seconds)."""

_TRY_AT: Final = "dispatchd_try_at"


def open_existing(path: str, busy_s: float) -> sqlite3.Connection:
    """Connect to a database's file; a file that is missing is not made.

    Args:
        path: Path of the file.
        busy_s: Longest wait for locks of others (seconds).

    Raises:
        sqlite3.OperationalError: There is no such file.
    """
    return sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
    )


def set_up(engine: Engine, *, only_reads: bool = False) -> None:
    """Have the connections and transactions of an engine made as those of the hub."""
    if only_reads:
        event.listen(engine, "connect", _refuse_changes)
    else:
        event.listen(engine, "checkin", _empty_log)
    # SQLite opens the file at the first statement.
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "connect", partial(_note_file, engine.url.database))
    event.listen(engine, "close", _forget_file)
    event.listen(engine, "begin", _begin)


def _note_file(path: str | None, _connection: object, record: Any) -> None:  # noqa: ANN401  # SQLAlchemy's own kind
    """Note which file a connection has opened."""
    if path:
        # A path alone takes no lock, and its end drops none of SQLite's (open(2), O_PATH).
        record.info[_FILE] = (path, os.open(path, os.O_PATH | os.O_CLOEXEC))


def _forget_file(_connection: object, record: Any) -> None:  # noqa: ANN401  # likewise
    _, file = record.info.pop(_FILE, ("", -1))
    if file >= 0:
        os.close(file)


def _empty_log(connection: Any, record: Any) -> None:  # noqa: ANN401  # likewise
    """Empty the log of changes if it is large. An error harms nothing: the next commit meets it, too.

    SQLite does so by itself only if nobody reads at the moment of a commit. This waits for the reads of older states.
    If they take long, the next try comes when the log has grown further.
    """
    path, _ = record.info.get(_FILE, ("", -1))
    if not path or connection is None:
        return
    with suppress(OSError, sqlite3.Error):
        size = os.stat(f"{path}-wal").st_size  # noqa: PTH116  # it is a string, and this is after each commit
        if size < record.info.get(_TRY_AT, LOG_BYTES):
            return
        record.info[_TRY_AT] = size + LOG_BYTES
        [before] = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * _READERS_END_S)}")
        try:
            is_busy, *_ = connection.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {before}")
        if not is_busy:
            record.info[_TRY_AT] = LOG_BYTES


def require_file(db: Connection) -> None:
    """Check that a connection's file is still the database.

    What is committed to a file that has been removed or replaced is gone with the process.

    Raises:
        StorageBusy: It isn't.
    """
    path, file = db.info.get(_FILE, ("", -1))
    if not path:
        return
    if not is_at(path, os.fstat(file)):
        message = f"{path} was removed or replaced: put it back, or restart the hub"
        raise StorageBusy(message)


def _set_up(connection: Any, _: object) -> None:  # noqa: ANN401  # SQLAlchemy's own kind of connection
    # A savepoint that changes many pages would need a file in /var/tmp: one that a full disk, or a lack of
    # descriptors, refuses (https://sqlite.org/tempfiles.html, statement journals).
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _refuse_changes(connection: Any, _: object) -> None:  # noqa: ANN401  # likewise
    connection.execute("PRAGMA query_only = ON")


def _begin(db: Connection) -> None:
    require_file(db)
    if db.get_execution_options().get(READ_ONLY):
        db.exec_driver_sql("BEGIN")
        return
    # Take the writer's lock at the start: a transaction that reads first may be refused when it writes.
    db.exec_driver_sql("BEGIN IMMEDIATE")
