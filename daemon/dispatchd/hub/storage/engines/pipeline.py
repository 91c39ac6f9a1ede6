"""Fewer round trips to PostgreSQL: statements that return nothing wait for the next one that does, or for the commit.

Within a transaction of a change, psycopg's pipeline mode sends the statements one after the other, and each error is
raised by the statement with which its answer is read. A statement says that nobody needs its answer by the option
`LATER`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

LATER: Final = "dispatchd_later"
"""Option of a statement whose answer is read with that of the next one, or with the commit."""

UNREAD: Final = MappingProxyType({LATER: True})
"""Options of a statement whose answer nobody needs."""

_PIPELINE: Final = "dispatchd_pipeline"
_OPENED: Final = "dispatchd_pipeline_opened"


def read_late(engine: Engine) -> None:
    """Have the answers of statements read by which those that need them were waited for."""
    event.listen(engine, "after_cursor_execute", _read_answers)
    event.listen(engine, "rollback", _end)


@contextmanager
def pipelined(db: Connection) -> Iterator[None]:
    """Send the statements of a block, of which none has begun a transaction yet, in a pipeline.

    Raises:
        DBAPIError: The connection ended.
    """
    driver: Any = db.connection.driver_connection
    # Of this connection to the server: after its end, `db.info` would ask for another one.
    info = db.info
    try:
        with ExitStack() as opened:
            info[_OPENED] = opened
            info[_PIPELINE] = opened.enter_context(driver.pipeline())
            try:
                yield
            finally:
                # Both are gone where SQLAlchemy has noticed the end of the connection.
                info.pop(_PIPELINE, None)
                info.pop(_OPENED, None)
    except db.dialect.loaded_dbapi.Error as error:
        # By the end of the pipeline, of which SQLAlchemy knows nothing.
        if not db.invalidated:
            db.invalidate(error)
        raise DBAPIError(None, None, error) from error


def _read_answers(db: Connection, *about: Any) -> None:  # noqa: ANN401  # SQLAlchemy's own kinds
    pipeline = db.info.get(_PIPELINE)
    context = about[-2]
    if pipeline is not None and not context.execution_options.get(LATER):
        pipeline.sync()


def _end(db: Connection) -> None:
    """End a pipeline before its rollback, which else fails by the statements that were sent after the one that failed.

    Their error, "pipeline aborted", would replace the one that says whether another try helps.
    """
    opened = None if db.invalidated else db.info.get(_OPENED)
    if opened is not None:
        with suppress(db.dialect.loaded_dbapi.Error):
            opened.close()
