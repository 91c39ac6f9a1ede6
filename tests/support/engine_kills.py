"""Jobs that say how they end, and kills of what their runs pass through: what the torture of every engine shares."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio
from anyio import to_thread
from attrs import define, field, frozen

from support.engine_scene import EngineScene
from support.until import until

DAEMON = "daemon"


@frozen
class Job:
    """A job that is handed out: how long its command takes (tenths of a second), and its exit code."""

    number: int
    workflow: str
    tenths: int
    code: int

    @property
    def id(self) -> str:
        return f"j{self.number}-{self.tenths // 10}.{self.tenths % 10}-{self.code}"

    @classmethod
    def drawn(cls, number: int, lengths: Sequence[int], draw: Random) -> "Job":
        """Return a job that is shorter than one of the lengths (tenths of a second), or has none."""
        tenths = draw.choice([draw.randrange(most) if most else 0 for most in lengths])
        return cls(
            number, draw.choice(list(WORKFLOWS)), tenths, draw.choice((0, 0, 1, 7))
        )


RUN = (
    'j=$DISPATCHD_JOB_ID; echo "$j $DISPATCHD_ATTEMPT" >>{folder}/ledger; '
    't=${j#*-}; sleep "${t%-*}"; echo "of $j"; exit "${j##*-}"'
)
"""Command that writes its start down, and then does what the id of its job says."""

RETRIES = "again"
"""Workflow that is given retries by `let_one_retry`."""

WORKFLOWS = {"once": RUN, RETRIES: RUN}


@define
class Blows(ABC):
    """Kills at random, alone and together; `dealt` counts them."""

    draw: Random
    dealt: Counter[str] = field(factory=Counter, kw_only=True)

    @abstractmethod
    def kill(self, victim: str) -> None:
        """Kill -9 a program, and wait until it is gone."""

    @abstractmethod
    def start(self, victim: str) -> None:
        """Start a program that was killed."""

    def drawn(self, programs: Sequence[str]) -> list[str]:
        return [name for name in programs if self.draw.random() < 0.4]

    def strike(self, victims: Sequence[str]) -> None:
        for victim in victims:
            self.dealt[victim] += 1
            self.kill(victim)

    async def bring_back(self, victims: Sequence[str]) -> None:
        """Start what was killed, in any order, at once or one after the other."""
        order = list(victims)
        self.draw.shuffle(order)
        for victim in order:
            await anyio.sleep(self.draw.choice((0, 0, self.draw.uniform(0, 2))))
            await to_thread.run_sync(self.start, victim)


def let_one_retry(at: EngineScene) -> None:
    """Let one of the workflows retry; its daemon has been started before."""
    file, table = at.daemon.config, f'[workflows."{RETRIES}"]'
    file.write_text(file.read_text().replace(table, f"{table}\nmax_retries = 2"))
    at.daemon.kill()
    at.daemon.start()


def hand_out(
    at: EngineScene, jobs: list[Job], count: int, lengths: Sequence[int], draw: Random
) -> list[Job]:
    """Hand fresh jobs out, and add them to those there are."""
    fresh = [Job.drawn(len(jobs) + each, lengths, draw) for each in range(count)]
    jobs += fresh
    for job in fresh:
        at.hand_out(job.id, job.workflow)
    return fresh


async def some_accepted(at: EngineScene, jobs: Sequence[Job], count: int) -> None:
    """Wait for a while until so many jobs are accepted, so that a kill finds many alive."""
    ids = {job.id for job in jobs}
    with anyio.move_on_after(5):
        await at.cloud.until(lambda cloud: len(ids & set(cloud.accepted)) >= count)


async def accepted(at: EngineScene, jobs: Sequence[Job]) -> None:
    """Hand jobs out until they are accepted: the pull of a daemon that was killed may take some with it."""
    ids = {job.id for job in jobs}

    async def look() -> bool:
        left = [job for job in jobs if job.id not in at.cloud.accepted]
        if left and not at.cloud.queue:
            for job in left:
                at.hand_out(job.id, job.workflow)
        with anyio.move_on_after(3):
            await at.cloud.until(lambda cloud: ids <= set(cloud.accepted), 60)
        return ids <= set(at.cloud.accepted)

    await until(look, 240, "all accepted")


def left(at: EngineScene, jobs: Sequence[Job]) -> list[Any]:
    """Return the records of jobs that have not been reported."""
    missing = [job.id for job in jobs if job.id not in at.cloud.finished]
    return [(job_id, at.record(job_id)) for job_id in missing]


async def tidied(at: EngineScene) -> None:
    """Start the daemon once more: it tidies at its start."""
    at.daemon.kill()
    at.daemon.start()
    await at.daemon.until_logged("daemon_ready", pid=at.daemon.process.pid)


def judge(
    at: EngineScene,
    jobs: Sequence[Job],
    seed: int,
    is_engines_end: Callable[[dict[str, str]], bool],
) -> None:
    """Fail unless each job is reported as it ended, or as the engine may end it, and no attempt has started twice."""
    starts = Counter((at.folder / "ledger").read_text().splitlines())
    twice = {start for start, count in starts.items() if count > 1}
    assert not twice, (seed, twice)
    begun = {start.partition(" ")[0] for start in starts}
    ends = [(job, at.cloud.finished[job.id]) for job in jobs]
    wrong = [
        (job, end)
        for job, end in ends
        if not (is_engines_end(end) or (job.id in begun and _is_own_end(job, end)))
    ]
    assert not wrong, (seed, wrong)
    assert not list((at.daemon.state / "jobs").iterdir()), seed


def _is_own_end(job: Job, end: dict[str, str]) -> bool:
    has_said = end["result_output"] == f"of {job.id}\n"
    if end["result_status"] == "succeeded":
        return job.code == 0 and has_said
    is_told = f"exit code {job.code}" in end["result_summary"]
    return end.get("result_cause") == "exit-code" and is_told and has_said


def tell(
    at: EngineScene, jobs: Sequence[Job], blows: Blows, seed: int, took_s: float
) -> None:
    """Print what came of it all."""
    known = [end for job in jobs if (end := at.cloud.finished.get(job.id))]
    ends = Counter(end.get("result_cause") or end["result_status"] for end in known)
    gone = [end["result_summary"] for end in known if end.get("result_cause") == "lost"]
    events = Counter(str(line.get("event")) for line in at.daemon.log())
    marks = ("slurm_", "engine_", "attempt_", "start_")
    seen = {name: count for name, count in events.items() if name.startswith(marks)}
    print(f"seed {seed}: {len(jobs)} jobs in {took_s:.0f} s; ends {dict(ends)}")
    print(f"kills {dict(blows.dealt)}; log {seen}", *gone, sep="\n")


def folders_of_processes() -> set[Path]:
    """Return the working folder of every process: a script is in that of its start."""
    return {path for _, path in working_folders()}


def working_folders() -> list[tuple[int, Path]]:
    """Return the id and the working folder of every process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(process.name), (process / "cwd").readlink()))
        except OSError:
            continue
    return found
