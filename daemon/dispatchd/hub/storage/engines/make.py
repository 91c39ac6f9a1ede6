"""Engines of a database, by its URL."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from attrs import frozen
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from dispatchd.hub.storage.engines.pipeline import read_late
from dispatchd.hub.storage.engines.sqlite import READ_ONLY, open_existing, set_up
from dispatchd.hub.storage.engines.turns import BUSY_S

ORIGIN: Final = "dispatchd_origin"
"""Option of an engine: the id of this process in its news."""

_CONNECTIONS: Final = 10
"""Most connections to PostgreSQL (count)."""

_READERS: Final = 8
"""Connections that read from SQLite (count); each has three descriptors (`hub/connections/limits.py`)."""

_TALKATIVE: Final = ("psycopg", "sqlalchemy.pool")
"""Loggers of libraries that print, with a traceback, each lost connection: whoever asked the database says it in a line."""


@frozen
class Engines:
    """Engines of a database: one for changes, one for reads."""

    changes: Engine
    reads: Engine

    @classmethod
    def of(cls, url: str, *, must_exist: bool) -> "Engines":
        """Return the engines of a database; they connect later.

        Args:
            url: URL in SQLAlchemy's form.
            must_exist: True to refuse a file that is missing or empty. Else it is made.

        Raises:
            ArgumentError: The URL can't be used.
            FileNotFoundError: There is no such file.
        """
        parsed = make_url(url)
        if parsed.drivername == "sqlite":
            if parsed.database:
                _provide(Path(parsed.database), must_exist=must_exist)
            return cls(_sqlite(parsed), _sqlite_readers(parsed))
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername != "postgresql+psycopg":
            message = f"{parsed.drivername} is not supported"
            raise ArgumentError(message)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        engine = _postgresql(parsed)
        return cls(engine, engine)

    def connect(self) -> None:
        """Open the connections that read from SQLite, while there are descriptors and the file is the right one."""
        if self.reads is self.changes:
            return
        with ExitStack() as opened:
            for _ in range(_READERS):
                opened.enter_context(self.reads.connect())

    def dispose(self) -> None:
        """Close the connections."""
        self.reads.dispose()
        # Last: with its last connection the log of changes is merged into the file.
        self.changes.dispose()


def _sqlite(url: URL) -> Engine:
    # One connection: SQLite has one writer at a time, and waiting here is better than the error "busy".
    engine = _of_file(url, {ORIGIN: uuid4().hex}, pool_size=1)
    set_up(engine)
    return engine


def _sqlite_readers(url: URL) -> Engine:
    engine = _of_file(
        url,
        {READ_ONLY: True},
        pool_size=_READERS,
        creator=partial(open_existing, url.database or "", BUSY_S),
    )
    set_up(engine, only_reads=True)
    return engine


def _of_file(
    url: URL, options: Mapping[str, object], *, pool_size: int, **more: object
) -> Engine:
    return create_engine(
        url,
        **more,
        execution_options=options,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_S,
        connect_args={
            "timeout": BUSY_S,
            "isolation_level": None,
            "check_same_thread": False,
        },
    )


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url,
        execution_options={ORIGIN: uuid4().hex},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_S,
    )
    event.listen(engine, "do_connect", _connect_postgresql)
    _set_up_postgresql(engine)
    return engine


def _provide(file: Path, *, must_exist: bool) -> None:
    """Make a database's file, unless it has to be there.

    Raises:
        FileNotFoundError: It has to be there, and is missing or empty.
    """
    if not must_exist:
        file.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files that it makes beside this one the same mode.
        file.touch(mode=0o600)
    elif not file.exists() or not file.stat().st_size:
        message = (
            "there is no such file, or it is empty; mount its disk or correct database_url, "
            "or make a new hub (dispatchd hub init) and restore a backup into it"
        )
        raise FileNotFoundError(message)


def _connect_postgresql(
    _dialect: object, _record: object, args: list[Any], parameters: dict[str, Any]
) -> object:
    # It imports the driver of PostgreSQL, which SQLite doesn't need.
    from dispatchd.hub.storage.engines.postgresql import connect  # noqa: PLC0415

    return connect(*args, **parameters)


def _set_up_postgresql(engine: Engine) -> None:
    from dispatchd.hub.storage.engines.postgresql import keep_alive  # noqa: PLC0415  # likewise

    keep_alive(engine)
    read_late(engine)
