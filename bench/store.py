"""Cost of a put as the store grows, beside one file that holds all jobs; cost of loading."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attrs import evolve

from bench.harness import folder, percentile, timed_s
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import encode, to_document
from dispatchd.agent.store.durable import DurableFolder
from dispatchd.agent.store.jobs import JobStore
from dispatchd.protocol.job import Job

SIZES: Final = (100, 1_000, 10_000)
PUTS: Final = 60
THREADS: Final = 16


def main() -> None:
    """Print put, load and group-commit figures."""
    print("store, one put (fsync of file and folder), median")
    for size in SIZES:
        with folder() as path:
            records = [record(number) for number in range(size)]
            ours, load_s = one_file_each(path, records)
            theirs = one_map(path, records)
        print(
            f"  {size:6} jobs: a file each {ours * 1e3:6.2f} ms   one map {theirs * 1e3:6.2f} ms   "
            f"map / ours {theirs / ours:6.1f}   load of all {load_s * 1e3:7.1f} ms"
        )
    with folder() as path:
        alone, together = group_commit(path)
    print(
        f"  puts in a second: 1 thread {alone:6.0f}   {THREADS} threads {together:6.0f}   ratio {together / alone:5.1f}"
    )


def record(number: int) -> TrackedJob:
    """Return a job that waits for a slot."""
    job = Job(
        id=f"job-{number}",
        workflow="build",
        repository="octo/hello",
        sha="a" * 40,
        ref="refs/heads/main",
    )
    now = datetime(2026, 11, 20, tzinfo=UTC)
    return evolve(TrackedJob.received(job, now=now), phase=Phase.ACCEPTED)


def one_file_each(path: Path, records: list[TrackedJob]) -> tuple[float, float]:
    """Return the seconds of one put into a store of this size, and of loading it."""
    jobs = path / "jobs"
    jobs.mkdir()
    for record in records:
        (jobs / f"{record.job.id}.json").write_bytes(encode(record))
    began = time.perf_counter()
    store, _ = JobStore.open(path)
    load_s = time.perf_counter() - began
    return median_of(lambda: store.put(records[0])), load_s


def one_map(path: Path, records: list[TrackedJob]) -> float:
    """Return the seconds of one put into a single file that holds all jobs."""
    everything = {record.job.id: to_document(record) for record in records}
    file = DurableFolder.open(path / "map")
    return median_of(lambda: file.put("map.json", json.dumps(everything).encode()))


def median_of(act: Callable[[], object]) -> float:
    """Return the median time of an act (seconds)."""
    return percentile([timed_s(act) for _ in range(PUTS)], 0.5)


def group_commit(path: Path) -> tuple[float, float]:
    """Return puts in a second by one thread, and by many at once."""
    files = DurableFolder.open(path / "group")

    def put_many(name: str) -> None:
        for _ in range(PUTS):
            files.put(name, b"x" * 1500)

    alone = PUTS / timed_s(lambda: put_many("alone"))
    threads = [
        threading.Thread(target=put_many, args=(str(number),))
        for number in range(THREADS)
    ]

    def together() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return alone, THREADS * PUTS / timed_s(together)


if __name__ == "__main__":
    main()
