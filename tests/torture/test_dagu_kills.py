"""Jobs on a distributed Dagu: daemon, server, scheduler, coordinator and workers are killed at any moment, alone and together.

Each job writes down its starts. None is lost, no attempt starts twice, each is reported with its own end, or as lost where
Dagu has lost its worker.
"""

import shutil
import time
from pathlib import Path

import anyio
import pytest

from support.dagu import DISTRIBUTED
from support.dagu_kills import Blows, ended
from support.dagu_scene import Scene, scene
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
from support.torture import Torture
from support.until import until

pytestmark = [pytest.mark.host, pytest.mark.torture(least_s=120)]

ROUNDS = 2
JOBS = 40
"""Jobs that are handed out at a time (count)."""

LENGTHS = (0, 30, 80, 200, 200, 200, 700)
"""Limits of how long a command takes, one of which is drawn (tenths of a second): Dagu gives runs up after 450."""

BLOWS = 8
"""Times in each round that some of the programs are killed (count)."""


@pytest.mark.timeout(3600)
async def test_kills_lose_no_job_and_start_no_attempt_twice(
    tmp_path: Path, torture: Torture
) -> None:
    jobs: list[Job] = []
    began = time.monotonic()
    async with scene(
        tmp_path,
        WORKFLOWS,
        limits="max_duration_s = 600",
        engine="slots = 40",
        programs=DISTRIBUTED,
        at_once=40,
    ) as at:
        let_one_retry(at)
        blows = Blows(torture.chance("dagu"), at)
        try:
            for number in range(ROUNDS * torture.size):
                if torture.is_over and number >= ROUNDS:
                    break
                await _round(at, blows, jobs)
                took_s = time.monotonic() - began
                print(f"round {number}: {took_s:.0f} s", flush=True)
            await tidied(at)
            links = at.daemon.state / "dagu"
            await until(lambda: not list(links.iterdir()), 60, "no start left")
        finally:
            for log in at.dagu.folder.glob("*.log"):
                shutil.copy(log, tmp_path)
            tell(at, jobs, blows, torture.seed, time.monotonic() - began)
        judge(at, jobs, torture.seed, _is_dagus_end)


async def _round(at: Scene, blows: Blows, jobs: list[Job]) -> None:
    fresh = hand_out(at, jobs, JOBS, LENGTHS, blows.draw)
    for _ in range(BLOWS):
        await some_accepted(at, fresh, blows.draw.randrange(JOBS))
        await anyio.sleep(blows.draw.uniform(0, 4))
        await blows.deal()
    await accepted(at, jobs)
    await ended(at, jobs, 600)


def _is_dagus_end(end: dict[str, str]) -> bool:
    return end.get("result_cause") == "lost" and "Dagu" in end["result_summary"]
