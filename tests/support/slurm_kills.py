"""Kills of what a run on Slurm passes through, in mixes, and what they have left."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
from anyio import to_thread
from attrs import define, field, frozen
from bench.slurm import CONTROLLER, NODES

from support.slurm_scene import Scene
from support.until import until

DAEMON = "daemon"
AMNESIAS = ("rolled back", "cold start")
"""How a controller forgets: it starts with an older state, or without any."""

STEPS = ("sbatch.before", "sbatch.after", "scontrol.before", "scontrol.after")

_DAY_S = 86400.0


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
    def drawn(cls, number: int, workflows: Sequence[str], draw: Random) -> "Job":
        tenths = draw.choice((0, draw.randrange(30), draw.randrange(80)))
        return cls(number, draw.choice(workflows), tenths, draw.choice((0, 0, 1, 7)))


RUN = (
    'j=$DISPATCHD_JOB_ID; echo "$j $DISPATCHD_ATTEMPT" >>{folder}/ledger; '
    't=${j#*-}; sleep "${t%-*}"; echo "of $j"; exit "${j##*-}"'
)
"""Command that writes its start down, and then does what the id of its job says."""


@define
class Blows:
    """Kills at random, alone and together; `dealt` counts them."""

    at: Scene
    draw: Random
    dealt: Counter[str] = field(factory=Counter)

    async def deal(self, *, amnesia: bool) -> None:
        """Kill some of daemon, controller and nodes at once; with a step of a start held, or with none."""
        victims = [
            name for name in (DAEMON, CONTROLLER, *NODES) if self.draw.random() < 0.4
        ]
        if amnesia and CONTROLLER not in victims:
            victims.append(CONTROLLER)
        step = self.draw.choice((*STEPS, "", "", ""))
        if step:
            self.at.steps.hold(step)
            with anyio.move_on_after(3):
                await self.at.steps.until_reached()
        await to_thread.run_sync(lambda: self._kill(victims, amnesia=amnesia))
        # What was on its way arrives before, between or after the next daemon and the next controller.
        later = self.draw.random() < 0.5
        if step and not later:
            self.at.steps.let_go(step)
        self.draw.shuffle(victims)
        for victim in victims:
            await anyio.sleep(self.draw.choice((0, 0, self.draw.uniform(0, 2))))
            await to_thread.run_sync(self._start, victim)
        if step and later:
            await anyio.sleep(self.draw.uniform(0, 3))
            self.at.steps.let_go(step)

    def _kill(self, victims: Sequence[str], *, amnesia: bool) -> None:
        for victim in victims:
            self.dealt[victim] += 1
            if victim == DAEMON:
                self.at.daemon.kill()
            else:
                self.at.cluster.kill(victim)
        if amnesia:
            which = self.draw.choice(AMNESIAS)
            self.dealt[which] += 1
            if which == AMNESIAS[0]:
                self.at.cluster.restore()
            else:
                self.at.cluster.wipe()

    def _start(self, victim: str) -> None:
        if victim == DAEMON:
            self.at.daemon.start()
        elif victim == CONTROLLER:
            self.at.cluster.start_controller()
        else:
            self.at.cluster.start_node(victim)


async def accepted(at: Scene, jobs: Sequence[Job]) -> None:
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


async def ended(at: Scene, jobs: Sequence[Job], within_s: float) -> None:
    """Wait for the ends of all jobs, while an admin puts nodes back and time passes for what has died without a trace."""

    async def look() -> bool:
        if all(job.id in at.cloud.finished for job in jobs):
            return True
        await at.cluster.run("scontrol", "update", "NodeName=n[1-2]", "State=RESUME")
        await to_thread.run_sync(_age, at.daemon.state)
        await anyio.sleep(1)
        return False

    def missing() -> list[Any]:
        left = [job.id for job in jobs if job.id not in at.cloud.finished]
        return [(job_id, at.record(job_id)) for job_id in left]

    try:
        await until(look, within_s, "all ends")
    except AssertionError:
        print(missing())
        print(await at.cluster.run("squeue", "-a", "-t", "all"))
        raise


def _age(state: Path) -> None:
    """Let a day pass for each claim of a script that was killed, and left nothing: its limit is over then."""
    claims = [
        claim
        for claim in state.glob("runs/*/attempt-*/dd-*/claim")
        if claim.read_bytes() != b"daemon\n" and not (claim.parent / "exit").exists()
    ]
    alive = set(_working_folders())
    for claim in claims:
        # Its last act is to leave its exit code.
        if claim.parent not in alive and not (claim.parent / "exit").exists():
            stamp = claim.stat().st_mtime - _DAY_S
            os.utime(claim, (stamp, stamp))


def _working_folders() -> Iterator[Path]:
    """Yield the working folder of every process: a batch script is in that of its start."""
    for process in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            yield process.readlink()
