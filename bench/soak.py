"""Growth of a daemon while very many jobs pass: `python -m bench.soak [JOBS]`.

Takes minutes, so `python -m bench` leaves it out. Figures are taken between two blocks of jobs, when
nothing runs: then every descriptor, thread or file that a job has left behind stands out, and none of
those that a job still needs is counted. History and the folders of past runs are kept on purpose, for
`history_days`. They are counted for each past job, and at the end a daemon with no retention shows that
they are removed.
"""

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from bench.harness import Hub, daemon, folder, hub, wait_until, write_config

JOBS: Final = 20_000
BLOCK: Final = 1_000
"""Jobs between two samples, and the most that the hub lists in one answer (count)."""

EARLY: Final = 0.1
"""Part of the jobs after which a daemon has reached its full size."""

SLOTS: Final = 8
QUEUE_AHEAD: Final = 16
HEADER: Final = "    jobs   jobs/s  resident KiB  descriptors  threads  in jobs/  in history/  files for each past job"


@frozen(kw_only=True)
class Sample:
    """Resources of a daemon after some jobs; `seconds` is the time of the last `block` of them."""

    jobs: int
    block: int
    seconds: float
    resident_kib: int
    descriptors: int
    threads: int
    tracked: int
    history: int
    runs: int

    @classmethod
    def of(
        cls, pid: int, state: Path, *, jobs: int, block: int, seconds: float
    ) -> Self:
        """Measure a daemon (proc_pid_status(5), proc_pid_fd(5)) and its state folder."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = {line.partition(":")[0]: line.split() for line in lines}
        return cls(
            jobs=jobs,
            block=block,
            seconds=seconds,
            resident_kib=int(fields["VmRSS"][1]),
            descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
            threads=int(fields["Threads"][1]),
            tracked=entries(state / "jobs"),
            history=entries(state / "history"),
            runs=entries(state / "runs"),
        )

    @property
    def files_per_past_job(self) -> float:
        """Return the files and folders that remain of each past job (count)."""
        return (self.history + self.runs) / self.jobs

    def row(self) -> str:
        """Return the sample as a line below the header."""
        return (
            f"{self.jobs:8,} {self.block / self.seconds:8.1f} {self.resident_kib:13,} {self.descriptors:12} {self.threads:8} "
            f"{self.tracked:9} {self.history:12,} {self.files_per_past_job:24.2f}"
        )


def main(jobs: int = JOBS) -> None:
    """Print the daemon's resources, block by block, and the difference between the beginning and the end."""
    print(f"soak, {jobs:,} jobs of /bin/true, {SLOTS} slots; nothing runs at a sample")
    print(HEADER, flush=True)
    with folder() as path, hub(path) as server:
        (path / "secret").chmod(0o600)  # else the daemon warns of it
        config = write_config(
            path, server.url, ["/bin/true"], slots=SLOTS, queue_ahead=QUEUE_AHEAD
        )
        samples = []
        block = min(BLOCK, max(1, int(EARLY * jobs)))
        with daemon(config) as process:
            for sample in soak(server, process.pid, path / "state", jobs, block):
                samples.append(sample)
                print(sample.row(), flush=True)
        pruned_s = prune(config, path / "state")
        left = entries(path / "state" / "history") + entries(path / "state" / "runs")
        complaints = (path / "daemon.log").read_text().splitlines()
    compare(samples)
    print(
        f"  then, with no retention: {left} files left of past jobs, after {pruned_s:.1f} s"
    )
    print(
        f"  warnings and errors logged: {len(complaints)}",
        *complaints[:5],
        sep="\n    ",
    )


def soak(server: Hub, pid: int, state: Path, jobs: int, block: int) -> Iterator[Sample]:
    """Put jobs through a daemon, and yield a sample after each block of them."""
    for first in range(0, jobs, block):
        names = [f"job-{number}" for number in range(first, min(first + block, jobs))]
        began = time.perf_counter()
        for name in names:
            server.submit(name)
        wait_until(partial(all_succeeded, server, names))
        seconds = time.perf_counter() - began
        wait_until(partial(is_empty, state / "jobs"))
        done = first + len(names)
        yield Sample.of(pid, state, jobs=done, block=len(names), seconds=seconds)


def all_succeeded(server: Hub, names: list[str]) -> bool:
    """Return whether the newest jobs of the hub are these, and all of them have succeeded."""
    server.finished(names[-1])
    query: dict[str, str | int] = {"state": "succeeded", "limit": len(names)}
    answer = server.http.get("/api/v1/jobs", params=query).raise_for_status().json()
    ends = {job["id"]: job["result_status"] for job in answer["jobs"]}
    return ends == dict.fromkeys(names, "succeeded")


def prune(config: Path, state: Path) -> float:
    """Return the seconds from the start of a daemon without retention to an empty history without runs."""
    text = config.read_text().replace("[store]", "[store]\nhistory_days = 0")
    config.write_text(text)
    began = time.perf_counter()
    with daemon(config):
        for folder in (state / "history", state / "runs" / ".gone"):
            while left := entries(folder):
                # In steps, so that the longest wait is one for progress and not for the whole.
                wait_until(partial(has_at_most, folder, max(0, left - BLOCK)))
    return time.perf_counter() - began


def compare(samples: list[Sample]) -> None:
    """Print the difference between the figures after a tenth of the jobs and at the end."""
    last = samples[-1]
    early = next(sample for sample in samples if sample.jobs >= EARLY * last.jobs)
    seconds = sum(sample.seconds for sample in samples)
    grown_kib = last.resident_kib - early.resident_kib
    between = max(1, last.jobs - early.jobs)
    print(
        f"  reference: after {early.jobs:,} jobs   {early.resident_kib:,} KiB, {early.descriptors} descriptors, {early.threads} threads"
    )
    print(
        f"  resident memory since then   {grown_kib:+,} KiB, {grown_kib * 1024 / between:+.0f} bytes for each job   aim: flat"
    )
    print(f"  descriptors                  {last.descriptors - early.descriptors:+}")
    print(f"  threads                      {last.threads - early.threads:+}")
    print(f"  files in jobs/               {last.tracked - early.tracked:+}")
    print(
        f"  files kept of a past job     {last.files_per_past_job - early.files_per_past_job:+.2f}   (they go with the retention)"
    )
    print(f"  full cycle, on average       {last.jobs / seconds:.1f} /s")


def entries(path: Path) -> int:
    """Return the number of files and folders below a folder, without those that are being removed."""
    count = 0
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name != ".gone"]
        count += len(folders) + len(files)
    return count


def is_empty(path: Path) -> bool:
    """Return whether a folder is empty."""
    return has_at_most(path, 0)


def has_at_most(path: Path, count: int) -> bool:
    """Return whether a folder has at most some entries in it."""
    return sum(1 for _ in path.iterdir()) <= count


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
