"""Listing past jobs while others come and go."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import evolve

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.store.jobs import JobStore, read_all
from dispatchd.protocol.job import Job
from support.records import NOW

LATER = datetime(2200, 1, 1, tzinfo=UTC)


def past(job_id: str) -> TrackedJob:
    job = Job(id=job_id, workflow="it")
    return TrackedJob.received(job, now=NOW).advance(Event.ACCEPT_REFUSED, NOW)


def test_a_half_written_record_is_none(tmp_path: Path) -> None:
    store, _ = JobStore.open(tmp_path)
    store.put(past("a"))
    kept = (tmp_path / "history" / "a.json").read_bytes()
    (tmp_path / "history" / ".aside-b.json").write_bytes(kept)

    assert [each.job.id for each in store.newest_past(10)] == ["a"]
    assert [each.job.id for each in store.past_like("")] == ["a"]
    assert [each.job.id for each in store.past_before(LATER)] == ["a"]
    assert [each.job.id for each in read_all(tmp_path)] == ["a"]
    store.close()


def test_a_job_is_as_old_as_its_record_says_whatever_time_its_file_was_given(
    tmp_path: Path,
) -> None:
    """A run can set the times of files that it can't write to (docs/security.md), and a job forgotten would run again."""
    store, _ = JobStore.open(tmp_path)
    store.put(past("young"))
    store.put(evolve(past("old"), changed_at=NOW - timedelta(days=40)))
    for name in ("young", "old"):
        os.utime(tmp_path / "history" / f"{name}.json", (0, 0))

    found = store.past_before(NOW - timedelta(days=30))

    assert [each.job.id for each in found] == ["old"]
    store.close()


def test_records_that_come_and_go_meanwhile_end_no_listing(tmp_path: Path) -> None:
    store, _ = JobStore.open(tmp_path)
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(20):
                store.put(past(f"j{number}"))
            for number in range(20):
                store.forget(past(f"j{number}"))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(100):
            store.newest_past(10)
            store.past_like("j")
            store.past_before(LATER)
            list(read_all(tmp_path))
    finally:
        over.set()
        thread.join()
        store.close()
