"""Connections to PostgreSQL with a time limit for every wait, whatever the network or another transaction does.

The server ends statements that take too long (`SETTINGS`). It can't do so if packets vanish on the way: a firewall
that has forgotten the connection, a failover. So each wait for an answer has a time limit here too. A connection that
has exceeded it is closed, and SQLAlchemy then replaces all connections of its pool.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError
from typing_extensions import override

from dispatchd.protocol.times import duration

T = TypeVar("T")

_USED_AT: Final = "dispatchd_used_at"

_FRESH_S: Final = 0.1
"""Time after its last use for which a connection is used again without a question (seconds)."""

CONNECT_S: Final = 5
"""Time limit of connecting (seconds)."""

_ANSWER_S: Final = 6.0
"""Time limit of the answer to a statement (seconds); the server gives up earlier."""

_ENCODING: Final = "UTF8"
"""Only encoding of PostgreSQL that can store all texts (PostgreSQL docs, 23.3.1)."""

SETTINGS: Final = {
    "statement_timeout": "5s",
    # Calls that wait for one locked row must not occupy the few connections for long: others need them.
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "30s",
}
"""Limits of the server for a session (PostgreSQL docs, 19.11.1)."""

PARAMETERS: Final = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,
}
"""Parameters of libpq (PostgreSQL docs, 32.1.2)."""


class BoundedConnection(psycopg.Connection[Any]):
    """Connection that is closed when an answer doesn't come in time."""

    answer_s: ClassVar[float] = _ANSWER_S
    _is_patient: bool = False
    """True if answers have no time limit."""

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Set no time limit of answers until the block ends, as during a migration."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False

    @override
    def wait(self, gen: PQGen[T], *args: Any, **more: Any) -> T:
        if self._is_patient:
            return super().wait(gen, *args, **more)
        return super().wait(self._bounded(gen), *args, **more)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        """Wrap a generator of psycopg with a time limit.

        Raises:
            psycopg.OperationalError: The time limit is exceeded.
        """
        until = time.monotonic() + self.answer_s  # of this one wait
        try:
            wait = next(gen)
            while True:
                ready = yield wait
                # psycopg also resumes with nothing ready, to check for interrupts.
                if not ready and time.monotonic() > until:  # likewise
                    self.pgconn.finish()
                    message = (
                        f"the server has not answered within {duration(self.answer_s)}"
                    )
                    raise psycopg.OperationalError(message)
                wait = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


def connect(*args: Any, **parameters: Any) -> BoundedConnection:  # noqa: ANN401  # of libpq
    """Connect, and set the server's limits.

    Raises:
        psycopg.Error: The server can't be reached, or ends the connection before it has been set up.
        psycopg.NotSupportedError: The database can't store all texts.
    """
    with ExitStack() as opened:
        connection = BoundedConnection.connect(*args, **{**PARAMETERS, **parameters})
        opened.callback(connection.close)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, _ENCODING):
            name = connection.info.dbname
            message = f"its encoding is {encoding}, and {_ENCODING} is needed: make another one (createdb -E {_ENCODING} -T template0 NAME), and move what is in {name} there"
            raise psycopg.NotSupportedError(message)
        for name, value in SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()
        opened.pop_all()
    return connection


def keep_alive(engine: Engine) -> None:
    """Have connections checked before their use, unless they were used a moment ago."""
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _require_alive)


def _note_use(_connection: object, record: Any) -> None:  # noqa: ANN401  # likewise
    record.info[_USED_AT] = time.monotonic()  # of this one connection


def _require_alive(connection: Any, record: Any, _: object) -> None:  # noqa: ANN401  # likewise
    """Check a connection that was idle.

    Raises:
        InvalidatePoolError: Its server has ended it, and so most likely the others.
    """
    used_at = record.info.get(_USED_AT)
    if used_at is None or time.monotonic() - used_at < _FRESH_S:  # likewise
        return
    try:
        connection.set_autocommit(True)
        connection.execute("SELECT 1")
        connection.set_autocommit(False)
    except psycopg.Error as error:
        raise InvalidatePoolError(str(error)) from error
