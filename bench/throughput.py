"""Full cycles in a second, and the processor time of each, beside those of the floor agent in the same run."""

import time
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.agents import AGENTS, Agent, switches, tree_cpu_s
from bench.harness import folder, hub, in_rounds

JOBS: Final = 400
WARM: Final = 40
"""Jobs that pass before the clock starts (count)."""

SLOTS: Final = 8


@frozen
class Cycles:
    """What one agent did with the jobs of one round."""

    rate: float
    """Jobs in a second."""
    cpu_ms: float
    """Processor time of a job, with that of its process (milliseconds)."""
    switches: float
    """Voluntary context switches of a job in the agent's own process (count)."""


def main() -> None:
    """Print rates, processor time and their ratios."""
    rounds = in_rounds(AGENTS, cycles)
    print(f"throughput, {JOBS} jobs of /bin/true, {SLOTS} slots, in turns")
    rounds.show("jobs a second", lambda round_: round_.rate, aim="at least 0.7")
    rounds.show("CPU a job, ms", lambda round_: round_.cpu_ms, aim="at most 1.6")
    rounds.show("context switches a job", lambda round_: round_.switches)


def cycles(agent: Agent) -> Cycles:
    """Return what an agent does with a queue of jobs."""
    with folder() as path, hub(path) as server:
        for number in range(JOBS):
            server.submit(f"job-{number}")
        with agent.running(path, server, str(Path("/bin/true")), SLOTS) as pid:
            server.finished(f"job-{WARM}")
            began, cpu, switched = time.perf_counter(), tree_cpu_s(pid), switches(pid)
            for number in range(WARM, JOBS):
                server.finished(f"job-{number}")
            count, seconds = JOBS - WARM, time.perf_counter() - began
            return Cycles(
                rate=count / seconds,
                cpu_ms=(tree_cpu_s(pid) - cpu) * 1e3 / count,
                switches=(switches(pid) - switched) / count,
            )


if __name__ == "__main__":
    main()
