"""What watches hubs under random calls finds faults: one is planted for each thing that has to hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from sqlalchemy import text

from dispatchd.hub.domain.model import Check, Delivery, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.backup import backup
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.store import JobStore
from support.hub_invariants import (
    LYING_S,
    HeldPoll,
    Seen,
    Watch,
    keep_history,
    torn_backup,
)

NOW = 1_795_600_000.0


@define
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@define
class Stage:
    """A database with a queued job `old`, one that is claimed, `held`, and what watches it."""

    database: Database
    clock: Clock
    seen: Seen
    watch: Watch

    def run(self, statement: str) -> None:
        with self.database.transaction() as db:
            db.execute(text(statement))

    def found(self) -> str:
        self.watch.look()
        return " ".join(self.seen.violations)


@pytest.fixture
def stage(database: Database) -> Stage:
    store = JobStore(database)
    for job_id in ("held", "old"):
        submission = Submission(
            id=job_id,
            document={"id": job_id, "dag_name": "ci", "repository_name": "o/r"},
            payload="null",
            headers="null",
            by_event=True,
            check=Check(repository="o/r", sha="a", name="ci"),
        )
        delivery = Delivery(id=f"d-{job_id}", job_ids=(job_id,))
        Admission(database).submit(submission, now=NOW, most=10, delivery=delivery)
    keep_history(database)
    assert store.claim("m", "t", None, now=NOW, lease_s=60) is not None
    clock = Clock()
    seen = Seen(clock)
    return Stage(database, clock, seen, Watch(database, seen))


def test_nothing_is_found_where_all_is_well(stage: Stage) -> None:
    stage.watch.look_at_the_end()

    assert stage.watch.moves == 1
    assert stage.seen.violations == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE jobs SET state = 'received' WHERE id = 'old'", "no such move"),
        (
            "UPDATE jobs SET token_hash = 'u' WHERE id = 'held'",
            "another claim without a claim",
        ),
        (
            "UPDATE jobs SET deliveries = 2, token_hash = 'u' WHERE id = 'held'",
            "claimed while held",
        ),
        ("DELETE FROM texts WHERE id = 'old'", "a job without its texts"),
        ("DELETE FROM jobs WHERE id = 'old'", "texts without a job"),
        ("DELETE FROM jobs WHERE id = 'old'", "a check without a job"),
        ("DELETE FROM jobs WHERE id = 'old'", "delivery d-old without its jobs"),
        ("DELETE FROM jobs WHERE id = 'held'", "a claim without a job"),
        ("DELETE FROM attempts", "a job without all of its claims"),
        ("UPDATE attempts SET machine = 'n'", "a claim that lasts beside the job's"),
        ("UPDATE attempts SET outcome = 'released'", "without a claim that lasts"),
        ("DELETE FROM checks WHERE job_id = 'old'", "a job of an event without its"),
        ("UPDATE checks SET state = 'claimed'", "missed its job's state"),
    ],
)
def test_a_fault_in_the_tables_is_found(
    stage: Stage, statement: str, found: str
) -> None:
    stage.run(statement)

    assert found in stage.found()


def test_what_a_cancelled_job_may_not_do_is_found(stage: Stage) -> None:
    stage.run("UPDATE jobs SET cancel_requested = TRUE")
    assert stage.found() == ""
    stage.run("UPDATE jobs SET accepts = 1, state = 'accepted' WHERE id = 'held'")
    stage.run(
        "UPDATE jobs SET state = 'claimed', deliveries = 1, token_hash = 'u' WHERE id = 'old'"
    )

    found = stage.found()
    assert "accepted though cancelled" in found
    assert "claimed though cancelled" in found


def test_a_torn_backup_is_found(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    backup(stage.database, file)
    copy = Database.open(f"sqlite:///{file}")
    whole = torn_backup(copy)
    with copy.transaction() as db:
        db.execute(text("DELETE FROM checks"))
    torn = torn_backup(copy)
    copy.close()

    assert whole == []
    assert "a job of an event without its check" in " ".join(torn)


@pytest.mark.parametrize(
    ("workflows", "after_s", "is_found"),
    [
        (("ci",), LYING_S + 1, True),
        (("ci",), LYING_S - 1, False),
        (("other",), LYING_S + 1, False),
    ],
)
def test_a_job_that_lies_beside_a_poll_is_found(
    stage: Stage, workflows: tuple[str, ...], after_s: float, *, is_found: bool
) -> None:
    stage.seen.polls.add(HeldPoll(machine="n", workflows=workflows))
    stage.watch.look()
    stage.clock.now += after_s

    assert ("old lies beside" in stage.found()) is is_found


@pytest.mark.parametrize("made", [["old", "held"], ["held", "old#2", "held"]])
def test_a_check_that_was_made_behind_a_newer_one_is_found(
    stage: Stage, made: list[str]
) -> None:
    # `held` was submitted before `old`.
    stage.watch.check_runs = lambda: [
        {"external_id": name, "repository": "o/r", "head_sha": "a", "name": "ci"}
        for name in made
    ]

    assert "the check of held was made behind a newer one" in stage.found()


def _fence_goes_back(seen: Seen, clock: Clock) -> None:
    for token in ("one", "two", "one"):
        clock.now += 2
        seen.succeeded("j", token, sent=clock.now - 1)


def _accepts_after_cancel(seen: Seen, clock: Clock) -> None:
    seen.cancel_answered("j")
    clock.now += 1
    seen.accepted("j", sent=clock.now)


def _overlaps(seen: Seen, clock: Clock) -> None:
    for token, sent in (("one", 1001.0), ("two", 1002.0), ("one", 1003.0)):
        clock.now = 1010.0
        seen.succeeded("j", token, sent)
    seen.accepted("j", sent=clock.now)


@pytest.mark.parametrize(
    ("happens", "found"),
    [
        (_fence_goes_back, ["j: an earlier claim counts again"]),
        (_accepts_after_cancel, ["j: accepted after its cancel was answered"]),
        # Calls that overlap may have happened in either order.
        (_overlaps, []),
    ],
)
def test_what_callers_see_is_judged(
    happens: Callable[[Seen, Clock], Any], found: list[str]
) -> None:
    clock = Clock()
    seen = Seen(clock)
    happens(seen, clock)

    assert seen.violations == found


def test_a_job_that_is_lost_or_there_twice_is_found(stage: Stage) -> None:
    stage.seen.submitted.update({"lost": 1, "old": 2})
    stage.watch.look_at_the_end()

    found = " ".join(stage.seen.violations)
    assert "lost was submitted and is not there" in found
    assert "old was taken 2 times" in found
