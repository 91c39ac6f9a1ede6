"""From start to the first pull, with many jobs waiting; from start to `--help`."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.harness import daemon, folder, percentile, timed_s, write_config
from bench.store import record
from dispatchd.agent.store.codec import encode

WAITING: Final = 1_000
ROUNDS: Final = 5


def main() -> None:
    """Print start times beside that of the bare interpreter."""
    bare = [
        timed_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
        for _ in range(ROUNDS)
    ]
    command = [sys.executable, "-m", "dispatchd", "--help"]
    helps = [
        timed_s(lambda: subprocess.run(command, check=True, capture_output=True))
        for _ in range(ROUNDS)
    ]
    empty, full = percentile(starts(0), 0.5), percentile(starts(WAITING), 0.5)
    print("start")
    print(f"  reference: python -c pass         {percentile(bare, 0.5) * 1e3:7.1f} ms")
    print(f"  dispatchd --help                  {percentile(helps, 0.5) * 1e3:7.1f} ms")
    print(f"  to the first pull, empty store    {empty * 1e3:7.1f} ms")
    print(
        f"  to the first pull, {WAITING} waiting   {full * 1e3:7.1f} ms   aim: under 1000 ms"
    )
    print(f"  full / empty                      {full / empty:7.2f}")


def starts(waiting: int) -> list[float]:
    """Return the seconds from start to first pull, with some jobs that wait for a slot."""
    with folder() as path:
        jobs = path / "state" / "jobs"
        jobs.mkdir(parents=True)
        for number in range(waiting):
            (jobs / f"job-{number}.json").write_bytes(encode(record(number)))
        return [one_start(path) for _ in range(ROUNDS)]


def one_start(path: Path) -> float:
    """Return the seconds until a daemon has connected to ask for a job."""
    # A listener of its own: it has no connection of an earlier daemon.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = write_config(path, url, ["/bin/sleep", "60"], queue_ahead=2 * WAITING)
        began = time.perf_counter()
        with daemon(config):
            connection, _ = listener.accept()
            seconds = time.perf_counter() - began
            connection.close()
    return seconds


if __name__ == "__main__":
    main()
