"""The two agents that are compared: dispatchd's daemon, and the floor agent as its reference."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from bench.harness import Hub, daemon, write_config


class Agent(Protocol):
    """Something that takes and runs jobs."""

    name: str

    def running(
        self, path: Path, server: Hub, program: str, slots: int
    ) -> AbstractContextManager[int]:
        """Run the agent in a folder, with one program for all jobs; yields its pid."""
        ...

    def workspace(self, path: Path, job_id: str) -> Path:
        """Return the folder in which a job's program ran."""
        ...


class Floor:
    """The least agent."""

    name = "floor agent"

    @contextmanager
    def running(
        self, path: Path, server: Hub, program: str, slots: int
    ) -> Iterator[int]:
        """Run it as a process."""
        words = [server.url, str(path / "floor"), str(slots), program]
        command = [sys.executable, "-m", "bench.floor_agent", *words]
        process = subprocess.Popen(command)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()

    def workspace(self, path: Path, job_id: str) -> Path:
        """Return the folder of a run."""
        return path / "floor/runs" / job_id


class Daemon:
    """dispatchd with its default isolation."""

    name = "dispatchd"

    @contextmanager
    def running(
        self, path: Path, server: Hub, program: str, slots: int
    ) -> Iterator[int]:
        """Run it as a process."""
        ahead = 2 * slots if slots > 1 else 1
        config = write_config(
            path, server.url, [program], slots=slots, queue_ahead=ahead
        )
        with daemon(config) as process:
            yield process.pid

    def workspace(self, path: Path, job_id: str) -> Path:
        """Return the workspace of a run."""
        return path / "state/runs" / job_id / "workspace"


AGENTS: Final[tuple[Agent, Agent]] = (Floor(), Daemon())


def tree_cpu_s(pid: int) -> float:
    """Return the processor time of a process, its living descendants, and those they have waited for (seconds).

    By fields 14 to 17 of proc_pid_stat(5).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = children(pid)
    except (FileNotFoundError, ProcessLookupError):
        # It has ended meanwhile: what it used is in its parent's next figures.
        return 0.0
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(tree_cpu_s, below))


def switches(pid: int) -> int:
    """Return the voluntary context switches of all threads of a process until now (count)."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
