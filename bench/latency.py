"""Time until a submitted job starts, and until its end is known at the hub, beside the floor agent's in the same run."""

import subprocess
import time
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.agents import AGENTS, Agent
from bench.harness import folder, hub, in_rounds, percentile

JOBS: Final = 200
WARM: Final = 10
"""Jobs that pass before times are taken (count)."""


@frozen
class Latencies:
    """Times of one agent in one round (seconds)."""

    starts: list[float]
    """From the submit to the start of the program, by the program's own clock."""
    ends: list[float]
    """From the end of the program to the finish at the hub."""


def main() -> None:
    """Print both latencies over jobs that are submitted one after the other."""
    rounds = in_rounds(AGENTS, latencies)
    print(f"latency, {JOBS} jobs one after the other, in turns")
    rounds.show(
        "submit to start, p50, ms", lambda each: ms(each.starts, 0.5), aim="at most 1.6"
    )
    rounds.show(
        "submit to start, p99, ms",
        lambda each: ms(each.starts, 0.99),
        aim="at most 2.1",
    )
    rounds.show(
        "end to finish, p50, ms", lambda each: ms(each.ends, 0.5), aim="at most 2.1"
    )
    rounds.show(
        "end to finish, p99, ms", lambda each: ms(each.ends, 0.99), aim="at most 3"
    )


def ms(times_s: list[float], part: float) -> float:
    """Return the time below which a part (0 to 1) of the times lies (milliseconds)."""
    return percentile(times_s, part) * 1e3


def latencies(agent: Agent) -> Latencies:
    """Return the times of an agent."""
    starts, ends = [], []
    with folder() as path, hub(path) as server:
        program = path / "stamp"
        source = Path(__file__).with_name("stamp.c")
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
        with agent.running(path, server, str(program), 1):
            for number in range(WARM + JOBS):
                job_id = f"job-{number}"
                submitted = time.time()  # noqa: TID251  # compared with the clock of another process
                server.submit(job_id)
                finished = server.finished(job_id)["finished_at"]
                stamps = (agent.workspace(path, job_id) / "stamp").read_text().split()
                started, ended = map(float, stamps)
                starts.append(started - submitted)
                ends.append(finished - ended)
    return Latencies(starts[WARM:], ends[WARM:])


if __name__ == "__main__":
    main()
