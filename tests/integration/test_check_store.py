"""The outbox as rows, on each kind of database: what is due, in which order, and what a change of the job does."""

from collections.abc import Sequence

import pytest
from attrs import evolve, frozen

from dispatchd.hub.domain.model import Check, State, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.jobs.store import JobStore

NOW = 1_795_600_000.0


@frozen
class Rows:
    database: Database

    @property
    def store(self) -> CheckStore:
        return CheckStore(self.database)

    def add(
        self,
        job_id: str,
        *,
        name: str = "",
        retry_at: float = 0.0,
        installation: int = 1,
    ) -> None:
        check = Check(
            installation=installation,
            repository="o/r",
            sha="a",
            name=name or job_id,
            retry_at=retry_at,
        )
        submission = Submission(
            id=job_id,
            document={"dag_name": "ci"},
            payload="null",
            headers="null",
            check=check,
        )
        with self.database.transaction() as db:
            Admission(self.database).admit(db, submission, now=NOW, most=99)

    def move(self, job_id: str, state: State) -> None:
        JobStore(self.database).change(job_id, lambda job: evolve(job, state=state))

    def due(
        self, limit: int = 9, without: Sequence[str] = (), closed: Sequence[int] = ()
    ) -> list[str]:
        keys = [("o/r", "a", name) for name in without]
        found = self.store.due(now=NOW, limit=limit, without=keys, closed=closed)
        return [each.check.job_id for each in found]

    def check(self, job_id: str) -> Check:
        found = self.store.get(job_id)
        assert found is not None
        return found.check


@pytest.fixture
def rows(database: Database) -> Rows:
    return Rows(database)


def test_conclusions_are_due_first_and_then_what_waits_longest(rows: Rows) -> None:
    rows.add("third", retry_at=NOW)
    rows.add("second", retry_at=NOW - 5)
    rows.add("later", retry_at=NOW + 5)
    rows.add("first")
    rows.move("first", State.FAILED)
    rows.add("parked")
    rows.move("parked", State.NEEDS_ATTENTION)

    assert set(rows.due()[:2]) == {"first", "parked"}
    assert rows.due()[2:] == ["second", "third"]
    assert len(rows.due(limit=1)) == 1
    assert rows.store.next_due_at(now=NOW) == NOW + 5


def test_what_is_looked_after_and_what_may_not_be_told_is_left_out(rows: Rows) -> None:
    rows.add("a")
    rows.add("b", installation=2)
    rows.add("c", installation=3)

    assert rows.due(without=["a"], closed=[3]) == ["b"]


def test_of_a_commit_and_name_the_newest_job_is_known(rows: Rows) -> None:
    for job_id, name in (("a", "ci"), ("b", "lint"), ("c", "ci")):
        rows.add(job_id, name=name)

    found = rows.store.due(now=NOW, limit=9)

    assert {each.job.id: each.is_newest for each in found} == {
        "a": False,
        "b": True,
        "c": True,
    }
    assert rows.due(without=["ci"]) == ["b"]


def test_a_clock_that_was_set_back_keeps_nothing_waiting(rows: Rows) -> None:
    rows.add("a", retry_at=NOW + 3 * 3600)
    rows.add("b", retry_at=NOW + 3600)

    assert rows.due() == ["a"]


def test_what_has_been_told_is_owed_no_more(rows: Rows) -> None:
    rows.add("a")

    told = evolve(rows.check("a"), owed=False, told="queued", check_run_id=2**40)
    rows.store.keep(told, seen_state="queued")

    assert rows.due() == []
    assert rows.check("a") == told
    assert rows.store.pending_count() == (0, 0)


def test_a_job_that_has_moved_on_meanwhile_stays_owed_and_is_due(rows: Rows) -> None:
    rows.add("a")
    seen = rows.check("a")
    rows.move("a", State.FAILED)

    failed = evolve(seen, failures=1, retry_at=NOW + 600, trouble="an outage")
    rows.store.keep(evolve(failed, owed=False), seen_state="queued")

    assert rows.due() == ["a"]
    assert rows.check("a").trouble == "an outage"


def test_news_of_a_job_are_due_at_once_whatever_came_of_those_before(
    rows: Rows,
) -> None:
    rows.add("a")
    refused = evolve(rows.check("a"), failures=9, retry_at=NOW + 3600)
    rows.store.keep(refused, seen_state="queued")
    assert rows.due() == []

    rows.move("a", State.FAILED)

    assert rows.due() == ["a"]
    assert rows.check("a").failures == 9
