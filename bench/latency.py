"""Time until a submitted job starts, and until its end is known at the hub."""

import subprocess
import time
from pathlib import Path
from typing import Final

from bench.harness import (
    Hub,
    daemon,
    folder,
    hub,
    percentile,
    spread,
    timed_s,
    write_config,
)

JOBS: Final = 300
STAMP: Final = 'date +%s.%N >"$DISPATCHD_WORKSPACE/started"'
"""Command that writes down when it runs; its own end follows at once."""


def main() -> None:
    """Print both latencies over jobs that are submitted one after the other."""
    with folder() as path, hub(path) as server:
        round_trips = [
            timed_s(lambda: server.http.get("/api/v1/jobs", params={"limit": 1}))
            for _ in range(JOBS)
        ]
        spawns = [
            timed_s(
                lambda: subprocess.run(
                    ["/bin/sh", "-c", "date +%s.%N"], check=True, capture_output=True
                )
            )
            for _ in range(JOBS)
        ]
        config = write_config(path, server.url, ["/bin/sh", "-c", STAMP])
        with daemon(config):
            pairs = [one_job(server, path, f"job-{number}") for number in range(JOBS)]
    starts, reports = (
        [start for start, _ in pairs[5:]],
        [report for _, report in pairs[5:]],
    )
    print(f"latency, {JOBS} jobs one after the other")
    print(f"  reference: HTTP round trip        {spread(round_trips)}")
    print(f"  reference: spawn of sh and date   {spread(spawns)}")
    print(
        f"  submit to process start           {spread(starts)}   aim: p99 within 50 ms"
    )
    print(
        f"  process to finish at the hub      {spread(reports)}   aim: p99 within 50 ms"
    )
    reference = percentile(round_trips, 0.5) + percentile(spawns, 0.5)
    print(
        f"  start / (round trip + spawn)      {percentile(starts, 0.5) / reference:7.2f}"
    )


def one_job(server: Hub, path: Path, job_id: str) -> tuple[float, float]:
    """Return seconds from submit to the time on the command's own clock, and from there to the finish at the hub."""
    submitted = time.time()  # noqa: TID251  # compared with the clock of another process
    server.submit(job_id)
    finished = server.finished(job_id)["finished_at"]
    started = float(
        (path / "state" / "runs" / job_id / "workspace" / "started").read_text()
    )
    return started - submitted, finished - started


if __name__ == "__main__":
    main()
