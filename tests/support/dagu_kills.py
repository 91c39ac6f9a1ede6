"""Kills of what a run on a distributed Dagu passes through, in mixes, and requests that are lost or come twice and late."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread
from attrs import define, field
from typing_extensions import override

from support import engine_kills
from support.dagu import DAG, DISTRIBUTED, WORKERS
from support.dagu_scene import Scene
from support.engine_kills import DAEMON, Job, left, working_folders
from support.front import Cut, Fault, pages
from support.until import until

ALONE, WITH_RUNS, MACHINE = "alone", "with its runs", "with its machine"
"""How a worker dies: its runs go on; nobody waits for their scripts any more; nothing of them is left either."""

FAULTS = (Fault(cut=Cut.BEFORE), Fault(cut=Cut.AFTER), Fault(sent_twice=True))
"""What happens to the request that enqueues a run."""


@define
class Blows(engine_kills.Blows):
    """Kills of daemon, server, scheduler, coordinator and workers."""

    at: Scene
    _submitted: set[str] = field(factory=set, init=False)
    """Ids of all starts that were recorded when somebody looked."""

    async def deal(self) -> None:
        """Kill some of them at once; with a request that is lost or doubled, or with none."""
        if self.draw.random() < 0.5:
            with anyio.move_on_after(10):
                await until(lambda: any(self._running()))
        fault = self.draw.choice((*FAULTS, None, None))
        if fault is not None:
            self.at.front.decide = pages(1, fault, "/enqueue")
            seen = len(self.at.front.faults)
            with anyio.move_on_after(self.draw.uniform(0, 3)):
                await self.at.front.until_done(seen + 1)
            self.dealt["requests lost or doubled"] += len(self.at.front.faults) - seen
        victims = self.drawn((DAEMON, *DISTRIBUTED))
        self._submitted |= self._recorded()
        await to_thread.run_sync(self.strike, victims)
        await self.bring_back(victims)
        if self._submitted and self.draw.random() < 0.5:
            # A request that was held up somewhere arrives, maybe after its start is over.
            late = {"dagRunId": self.draw.choice(sorted(self._submitted))}
            self.dealt["late requests"] += 1
            await self.at.dagu.post(f"/dags/{DAG}/enqueue", late)

    def _running(self) -> Iterator[Path]:
        """Yield the starts whose scripts have begun, and have not left."""
        for start in (self.at.daemon.state / "dagu").glob("*"):
            if (start / "session").exists() and not (start / "exit").exists():
                yield start

    def _recorded(self) -> set[str]:
        """Return the ids of the newest starts of all jobs."""
        found = set()
        for path in (self.at.daemon.state / "jobs").glob("*.json"):
            with suppress(FileNotFoundError):
                attempts = json.loads(path.read_text()).get("attempts", [])
                found |= {
                    each["dag_run"]["name"] for each in attempts if each.get("dag_run")
                }
        return found

    @override
    def kill(self, victim: str) -> None:
        if victim == DAEMON:
            self.at.daemon.kill()
            return
        others = []
        if victim in WORKERS:
            how = self.draw.choice((ALONE, WITH_RUNS, MACHINE))
            others = self._of_worker(self.at.dagu.pid(victim), how)
            self.dealt[f"worker {how}"] += 1
            self.dealt[f"processes of a worker {how}"] += len(others)
        self.at.dagu.kill(victim)
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _of_worker(self, session: int, how: str) -> list[int]:
        """Return the processes that die with a worker. All but watchers and commands are in its session."""
        if how == ALONE:
            return []
        places = working_folders()
        within = [(pid, path) for pid, path in places if _session(pid) == session]
        if how == WITH_RUNS:
            return [pid for pid, _ in within if _is_dagu(pid)]
        starts = {path for _, path in within if path.name.startswith("dd-")}
        sessions = {_session_of_command(start) for start in starts} - {0}
        rest = [
            pid for pid, path in places if path in starts or _session(pid) in sessions
        ]
        # Whoever watches dies first, as all do at once.
        return [*rest, *(pid for pid, _ in within)]

    @override
    def start(self, victim: str) -> None:
        if victim == DAEMON:
            self.at.daemon.start()
        else:
            self.at.dagu.start(victim)


async def ended(at: Scene, jobs: Sequence[Job], within_s: float) -> None:
    """Wait for the ends of all jobs."""
    try:
        await until(
            lambda: all(job.id in at.cloud.finished for job in jobs),
            within_s,
            "all ends",
        )
    except AssertionError:
        for record in left(at, jobs):
            print(record)
        print(await at.dagu.runs())
        raise


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is_dagu(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "dagu"
    except OSError:
        return False


def _session_of_command(start: Path) -> int:
    try:
        return int((start / "session").read_text())
    except (OSError, ValueError):
        return 0
