"""Storage in one SQLite file: WAL, and a full sync before anything is acknowledged."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import asdict, define, evolve, fields

from dispatchd.hub.rules import is_cancel
from dispatchd.hub.storage import Claimed, HubJob, State, StorageBusy, Submission

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    urgent INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    state TEXT NOT NULL,
    machine TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    lease_until REAL NOT NULL,
    run_id TEXT NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT NOT NULL,
    progress TEXT NOT NULL,
    cancel_requested INTEGER NOT NULL,
    result_status TEXT NOT NULL,
    result_summary TEXT NOT NULL,
    result_cause TEXT NOT NULL,
    result_output TEXT NOT NULL,
    created_at REAL NOT NULL,
    claimed_at REAL NOT NULL,
    accepted_at REAL NOT NULL,
    finished_at REAL NOT NULL,
    deliveries INTEGER NOT NULL,
    accepts INTEGER NOT NULL,
    finishes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, urgent DESC, position);
CREATE TABLE IF NOT EXISTS texts (id TEXT PRIMARY KEY, payload TEXT NOT NULL, headers TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_COLUMNS: Final = [each.name for each in fields(HubJob)]
_NAMES: Final = ", ".join(_COLUMNS)
_PLACES: Final = ", ".join("?" for _ in _COLUMNS)
_INSERT: Final = f"INSERT INTO jobs (urgent, {_NAMES}) VALUES (?, {_PLACES})"  # noqa: S608  # names of our own
_UPDATE: Final = f"UPDATE jobs SET ({_NAMES}) = ({_PLACES}) WHERE id = ?"  # noqa: S608  # likewise
_NEXT: Final = """
SELECT * FROM jobs WHERE state = ? AND lease_until <= ? ORDER BY urgent DESC, position LIMIT 1
"""
_LOCK_WAIT_S: Final = 5.0


@define
class SqliteStorage:
    """Implements `hub.storage.Storage`; one connection, one transaction at a time."""

    _connection: sqlite3.Connection
    _turn: threading.Lock

    @classmethod
    def open(cls, path: Path) -> "SqliteStorage":
        """Open a database file, creating it and its folder where they are missing.

        Raises:
            StorageBusy: It can't be opened.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                path,
                timeout=_LOCK_WAIT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StorageBusy(str(error)) from error
        return cls(connection, threading.Lock())

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def submit(
        self,
        submission: Submission,
        *,
        now: float,
        also: Callable[[HubJob], HubJob] | None = None,
    ) -> bool:
        """Keep a new job durably; False, and nothing changes, if its id is taken."""
        job = HubJob(id=submission.id, document=submission.document, created_at=now)
        urgent = is_cancel(submission.document)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone():
                return False
            if also is not None:
                self._change_unfinished(db, also)
            db.execute(_INSERT, (urgent, *_values(job)))
            db.execute(
                "INSERT INTO texts VALUES (?, ?, ?)",
                (job.id, submission.payload, submission.headers),
            )
            return True

    def claim(
        self, machine: str, token_hash: str, *, now: float, lease_s: float
    ) -> Claimed | None:
        """Give a machine the next job, urgent ones first, then the oldest."""
        with self._transaction() as db:
            # Two looks, because SQLite would sort all that are queued for one look at both states.
            looks = [
                db.execute(_NEXT, (state, now)).fetchone()
                for state in (State.QUEUED, State.CLAIMED)
            ]
            rows = [row for row in looks if row is not None]
            if not rows:
                return None
            queued = _job(min(rows, key=lambda row: (-row["urgent"], row["position"])))
            job = evolve(
                queued,
                state=State.CLAIMED,
                machine=machine,
                token_hash=token_hash,
                phase="",
                lease_until=now + lease_s,
                claimed_at=now,
                deliveries=queued.deliveries + 1,
            )
            self._write(db, job)
            texts = db.execute(
                "SELECT payload, headers FROM texts WHERE id = ?", (job.id,)
            ).fetchone()
            return Claimed(job=job, payload=texts["payload"], headers=texts["headers"])

    def next_expiry(self) -> float | None:
        """Return when the next unaccepted claim runs out, or None."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT MIN(lease_until) FROM jobs WHERE state = ?", (State.CLAIMED,)
            ).fetchone()[0]
            return None if found is None else float(found)

    def change(self, job_id: str, decide: Callable[[HubJob], HubJob]) -> HubJob | None:
        """Replace a job by what `decide` makes of it; None if there is no such job."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                return None
            before = _job(row)
            return self._replace(db, before, decide(before))

    def get(self, job_id: str) -> HubJob | None:
        """Return a job, or None."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else _job(row)

    def list(self, state: str, limit: int) -> list[HubJob]:
        """Return the newest jobs, in some state or in any (empty), oldest of them first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE ? IN ('', state) ORDER BY position DESC LIMIT ?",
                (state, limit),
            ).fetchall()
            return [_job(row) for row in reversed(rows)]

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a value that is made once and kept."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT value FROM secrets WHERE name = ?", (name,)
            ).fetchone()
            if row is not None:
                return str(row["value"])
            value = make()
            db.execute("INSERT INTO secrets VALUES (?, ?)", (name, value))
            return value

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._connection.rollback()
                    raise
            except sqlite3.Error as error:
                raise StorageBusy(str(error)) from error

    def _change_unfinished(
        self, db: sqlite3.Connection, decide: Callable[[HubJob], HubJob]
    ) -> None:
        rows = db.execute(
            "SELECT * FROM jobs WHERE state IN (?, ?, ?)",
            (State.QUEUED, State.CLAIMED, State.ACCEPTED),
        ).fetchall()
        for before in map(_job, rows):
            self._replace(db, before, decide(before))

    def _replace(self, db: sqlite3.Connection, before: HubJob, after: HubJob) -> HubJob:
        if after != before:
            self._write(db, after)
        return after

    def _write(self, db: sqlite3.Connection, job: HubJob) -> None:
        db.execute(_UPDATE, (*_values(job), job.id))


def _values(job: HubJob) -> tuple[Any, ...]:
    row = asdict(job)
    row["document"] = json.dumps(job.document)
    return tuple(row[name] for name in _COLUMNS)


def _job(row: sqlite3.Row) -> HubJob:
    found = {name: row[name] for name in _COLUMNS}
    found["document"] = json.loads(found["document"])
    found["state"] = State(found["state"])
    found["cancel_requested"] = bool(found["cancel_requested"])
    return HubJob(**found)
