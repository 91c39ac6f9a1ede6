"""Data step of a migration: it changes many jobs, in transactions of some thousand rows, after the tables were changed."""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.sql.elements import ColumnElement

BEGINNING: Final = -1
"""Position before that of every job."""


@frozen
class Fill:
    """Data step of the migration in whose module it stands as `FILL`.

    The number of the migration is written before the first rows and isn't valid alone until the last ones, so that no
    older release takes the tables for its own (`hub/storage/migrate.py`).
    """

    count: Callable[[Connection, int], int]
    """Return the number of jobs to change after a position."""

    change: Callable[[Connection, int, int], Sequence[int]]
    """Change the next jobs after a position, at most as many as given; return their positions, in order."""

    finish: Callable[[Connection], None]
    """Do what remains once all are changed, in the transaction of the last ones."""


def count(db: Connection, table: Table, *of: ColumnElement[bool], after: int) -> int:
    """Return the number of jobs that match, after a position."""
    query = select(func.count()).where(table.c.position > after, *of)
    return int(db.execute(query.select_from(table)).scalar_one())
