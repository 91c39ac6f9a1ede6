"""Turns: fairness between repositories, within the transaction of the caller (start-time fair queueing)."""

from typing import Final

from sqlalchemy import BigInteger, Connection, Insert, cast
from sqlalchemy.dialects import postgresql, sqlite

from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.storage.database import is_postgresql
from dispatchd.hub.storage.engines.pipeline import UNREAD
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.schema import MARKS, TURN


def next_turn(db: Connection, job: HubJob) -> int:
    """Return a new job's turn: after those of its own repository, and not before the current turn.

    So a repository with many waiting jobs gets one of them claimed for each one of the other repositories
    (start-time fair queueing, with the same cost for every job). The current turn is that of the newest claim,
    stored by itself (`pass_turn`): a job that nobody claims doesn't stop it, and it never goes back.
    """
    like = {"of_priority": job.priority, "of_repository": job.repository}
    mark = {"turn_mark": f"{TURN}{job.priority}"}
    current, last = db.execute(queries.TURNS, {**like, **mark}).one()
    if current is None:
        # Before the first claim the current turn is that of the first job in the queue.
        current = db.execute(queries.FIRST_TURN, like).scalar() or 0
    now = int(current)
    has_had = db.execute(queries.HAS_HAD_TURN, {**like, "of_turn": now}).first()
    return max(now + (has_had is not None), -1 if last is None else last + 1)


def pass_turn(db: Connection, job: HubJob) -> None:
    """Store the turn of a claimed job as the current one; an earlier turn changes nothing, and neither does a cancel job."""
    if job.urgent:
        return
    values = {"name": f"{TURN}{job.priority}", "value": str(job.turn)}
    statement = _PASS[is_postgresql(db)]
    db.execute(statement, values, execution_options=UNREAD)


def _pass(insert: postgresql.Insert | sqlite.Insert) -> Insert:
    later = cast(MARKS.c.value, BigInteger) < cast(insert.excluded.value, BigInteger)
    return insert.on_conflict_do_update(
        index_elements=[MARKS.c.name],
        set_={"value": insert.excluded.value},
        where=later,
    )


_PASS: Final = {
    True: _pass(postgresql.insert(MARKS)),
    False: _pass(sqlite.insert(MARKS)),
}
"""Statements that store a turn, built once: by whether they are for PostgreSQL."""
