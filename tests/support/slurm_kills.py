"""Kills of what a run on Slurm passes through, in mixes, and the time that passes for what has died."""

import os
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio import to_thread
from attrs import define
from bench.slurm import CONTROLLER, NODES
from typing_extensions import override

from support import engine_kills
from support.engine_kills import DAEMON, Job, left
from support.slurm_scene import Scene
from support.until import until

AMNESIAS = ("rolled back", "cold start")
"""How a controller forgets: it starts with an older state, or without any."""

STEPS = ("sbatch.before", "sbatch.after", "scontrol.before", "scontrol.after")

_DAY_S = 86400.0


@define
class Blows(engine_kills.Blows):
    """Kills of daemon, controller and nodes."""

    at: Scene

    async def deal(self, *, amnesia: bool) -> None:
        """Kill some of daemon, controller and nodes at once; with a step of a start held, or with none."""
        victims = self.drawn((DAEMON, CONTROLLER, *NODES))
        if amnesia and CONTROLLER not in victims:
            victims.append(CONTROLLER)
        step = self.draw.choice((*STEPS, "", "", ""))
        if step:
            self.at.steps.hold(step)
            with anyio.move_on_after(3):
                await self.at.steps.until_reached()
        await to_thread.run_sync(lambda: self._strike(victims, amnesia=amnesia))
        # What was on its way arrives before, between or after the next daemon and the next controller.
        later = self.draw.random() < 0.5
        if step and not later:
            self.at.steps.let_go(step)
        await self.bring_back(victims)
        if step and later:
            await anyio.sleep(self.draw.uniform(0, 3))
            self.at.steps.let_go(step)

    def _strike(self, victims: Sequence[str], *, amnesia: bool) -> None:
        self.strike(victims)
        if amnesia:
            which = self.draw.choice(AMNESIAS)
            self.dealt[which] += 1
            if which == AMNESIAS[0]:
                self.at.cluster.restore()
            else:
                self.at.cluster.wipe()

    @override
    def kill(self, victim: str) -> None:
        if victim == DAEMON:
            self.at.daemon.kill()
        else:
            self.at.cluster.kill(victim)

    @override
    def start(self, victim: str) -> None:
        if victim == DAEMON:
            self.at.daemon.start()
        elif victim == CONTROLLER:
            self.at.cluster.start_controller()
        else:
            self.at.cluster.start_node(victim)


async def ended(at: Scene, jobs: Sequence[Job], within_s: float) -> None:
    """Wait for the ends of all jobs, while an admin puts nodes back and time passes for what has died without a trace."""

    async def look() -> bool:
        if all(job.id in at.cloud.finished for job in jobs):
            return True
        await at.cluster.run("scontrol", "update", "NodeName=n[1-2]", "State=RESUME")
        await to_thread.run_sync(_age, at.daemon.state)
        await anyio.sleep(1)
        return False

    try:
        await until(look, within_s, "all ends")
    except AssertionError:
        print(left(at, jobs))
        print(await at.cluster.run("squeue", "-a", "-t", "all"))
        raise


def _age(state: Path) -> None:
    """Let a day pass for each claim of a script that was killed, and left nothing: its limit is over then."""
    claims = [
        claim
        for claim in state.glob("runs/*/attempt-*/dd-*/claim")
        if claim.read_bytes() != b"daemon\n" and not (claim.parent / "exit").exists()
    ]
    alive = engine_kills.folders_of_processes()
    for claim in claims:
        # Its last act is to leave its exit code.
        if claim.parent not in alive and not (claim.parent / "exit").exists():
            stamp = claim.stat().st_mtime - _DAY_S
            os.utime(claim, (stamp, stamp))
