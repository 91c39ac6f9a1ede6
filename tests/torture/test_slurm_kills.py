"""Jobs on a real Slurm whose daemon, controller and nodes are killed at any moment, alone and together.

Each job writes down its starts. None is lost, no attempt starts twice, each is reported with its own end or as lost,
and nothing is left in the queue.
"""

import shutil
import time
from pathlib import Path

import anyio
import pytest

from support.engine_kills import (
    WORKFLOWS,
    Job,
    accepted,
    hand_out,
    judge,
    let_one_retry,
    some_accepted,
    tell,
    tidied,
)
from support.slurm import booted
from support.slurm_kills import Blows, ended
from support.slurm_scene import Scene, scene
from support.torture import Torture

pytestmark = [pytest.mark.host, pytest.mark.torture(least_s=120)]

ROUNDS = 2
JOBS = 20
"""Jobs that are handed out at a time (count)."""

LENGTHS = (0, 30, 80)
"""Limits of how long a command takes, one of which is drawn (tenths of a second)."""

BLOWS = 4
"""Kills in each round, at least one of which makes the controller forget (count)."""


@pytest.mark.timeout(3600)
async def test_kills_and_amnesias_lose_no_job_and_start_no_attempt_twice(
    tmp_path: Path, torture: Torture
) -> None:
    draw = torture.chance("slurm")
    jobs: list[Job] = []
    began = time.monotonic()
    limits = "max_duration_s = 600"
    with booted(min_job_age=30) as cluster:
        async with scene(tmp_path, cluster, WORKFLOWS, limits=limits) as at:
            let_one_retry(at)
            blows = Blows(draw, at)
            try:
                for number in range(ROUNDS * torture.size):
                    if torture.is_over and number >= ROUNDS:
                        break
                    await _round(at, blows, jobs)
                    took_s = time.monotonic() - began
                    print(f"round {number}: {took_s:.0f} s", flush=True)
                await tidied(at)
                await at.cluster.unheld()
            finally:
                for log in cluster.folder.glob("*.log"):
                    shutil.copy(log, tmp_path)
            tell(at, jobs, blows, torture.seed, time.monotonic() - began)
            judge(at, jobs, torture.seed, _is_slurms_end)
            assert not list((at.daemon.state / "slurm").iterdir()), torture.seed


async def _round(at: Scene, blows: Blows, jobs: list[Job]) -> None:
    at.cluster.remember()
    fresh = hand_out(at, jobs, JOBS, LENGTHS, blows.draw)
    surely = blows.draw.randrange(BLOWS)
    for number in range(BLOWS):
        await some_accepted(at, fresh, blows.draw.randrange(JOBS))
        await anyio.sleep(blows.draw.uniform(0, 2))
        if blows.draw.random() < 0.5:
            at.cluster.remember()
            await anyio.sleep(blows.draw.uniform(0, 2))
        await blows.deal(amnesia=number == surely or blows.draw.random() < 0.25)
    await accepted(at, jobs)
    await ended(at, jobs, 600)


def _is_slurms_end(end: dict[str, str]) -> bool:
    if end["result_status"] == "aborted":
        return "was cancelled" in end["result_summary"]
    return end.get("result_cause") == "lost" and "Slurm" in end["result_summary"]
