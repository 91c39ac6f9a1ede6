"""What a job and a look cost at a long queue: what is meant is found by an index, under whichever name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dispatchd.hub.domain.model import Submission
from dispatchd.hub.github.ingest.received import Received
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.store import JobStore

PUSHED = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": "o/r",
    "repository_id": 7,
    "pull_request_number": 3,
}
CANCEL = {**PUSHED, "command": "cancel"}
WITHOUT_ID = {**PUSHED, "repository_id": None}


@contextmanager
def plans() -> Iterator[list[tuple[str, str]]]:
    """Collect each query of jobs in a block, with SQLite's plan of it."""
    found: list[tuple[str, str]] = []

    def explain(db: Any, _cursor: Any, statement: str, given: Any, *_: object) -> None:
        if statement.startswith("SELECT") and "FROM jobs" in statement:
            rows = db.connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)
            found.append((statement, "; ".join(row[3] for row in rows.fetchall())))

    # Reads and changes have engines of their own.
    event.listen(Engine, "before_cursor_execute", explain)
    yield found
    event.remove(Engine, "before_cursor_execute", explain)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/hub.db")
    yield database
    database.close()


def submit(
    database: Database,
    document: dict[str, Any],
    job_id: str = "j",
    *,
    received: bool = False,
) -> None:
    submission = Submission(
        id=job_id,
        document=document,
        payload="null",
        headers="null",
        supersedes=True,
        received=received,
    )
    Admission(database).submit(submission, now=1.0, most=10)


@pytest.mark.parametrize(
    ("document", "index"),
    [
        (PUSHED, "jobs_by_number (state=? AND number=?)"),
        (WITHOUT_ID, "jobs_by_number (state=? AND number=?)"),
        (CANCEL, "jobs_by_number (state=? AND number=?)"),
        ({"command": "cancel", "dag_run_id": "run"}, "jobs_by_run (run_id=?)"),
    ],
)
def test_the_jobs_that_a_new_one_means_are_found_by_an_index(
    database: Database, document: dict[str, Any], index: str
) -> None:
    with plans() as found:
        submit(database, document)

    meant = [plan for statement, plan in found if "jobs.document" in statement]
    assert meant
    assert all(index in plan for plan in meant)


def test_nothing_at_an_admission_looks_at_every_waiting_job(
    database: Database,
) -> None:
    submit(database, {**PUSHED, "sha": "1"})
    JobStore(database).claim("m", "token", None, now=1.0, lease_s=60)
    with plans() as found:
        submit(database, {**PUSHED, "sha": "2"}, "k")

    assert found
    for statement, plan in found:
        assert "SCAN jobs" not in plan, statement
        by_state = [each for each in plan.split("; ") if each.endswith("(state=?)")]
        assert not by_state, (statement, plan)


def test_the_jobs_that_a_comment_cancels_are_found_by_an_index(
    database: Database,
) -> None:
    submit(database, CANCEL, received=True)
    with plans() as found:
        Received(database).cancel("j", now=2.0)

    assert any("jobs_by_number (state=? AND number=?)" in plan for _, plan in found)


@pytest.mark.parametrize("state", ["queued", "succeeded"])
def test_a_list_of_one_state_sorts_nothing_and_reads_no_more_than_it_shows(
    database: Database, state: str
) -> None:
    with plans() as found:
        JobReader(database).list(Filter(state=state))
        JobReader(database).oldest_queued_at()

    plan = "SEARCH jobs USING INDEX jobs_by_state (state=?)"
    assert [each for _, each in found] == [plan, plan]
