"""Fewer round trips to PostgreSQL: statements that return nothing wait for the next one that does, or for the commit.

Within a transaction of a change, psycopg's pipeline mode sends the statements one after the other, and each error is
raised by the statement with which its answer is read. A statement says that nobody needs its answer by the option
`LATER`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

LATER: Final = "dispatchd_later"
"""Option of a statement whose answer is read with that of the next one, or with the commit."""

UNREAD: Final = MappingProxyType({LATER: True})
"""Options of a statement whose answer nobody needs."""

_PIPELINE: Final = "dispatchd_pipeline"


def read_late(engine: Engine) -> None:
    """Have the answers of statements read by which those that need them were waited for."""
    event.listen(engine, "after_cursor_execute", _read_answers)


@contextmanager
def pipelined(db: Connection) -> Iterator[None]:
    """Send the statements of a block, of which none has begun a transaction yet, in a pipeline."""
    driver: Any = db.connection.driver_connection
    with driver.pipeline() as db.info[_PIPELINE]:
        try:
            yield
        finally:
            del db.info[_PIPELINE]


def _read_answers(db: Connection, *about: Any) -> None:  # noqa: ANN401  # SQLAlchemy's own kinds
    pipeline = db.info.get(_PIPELINE)
    context = about[-2]
    if pipeline is not None and not context.execution_options.get(LATER):
        pipeline.sync()
