"""Jobs on a real Slurm whose daemon, controller and nodes are killed at any moment, alone and together.

Each job writes down its starts. None is lost, no attempt starts twice, each is reported with its own end or as lost,
and nothing is left in the queue.
"""

import shutil
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from support.slurm import booted
from support.slurm_kills import RUN, Blows, Job, accepted, ended
from support.slurm_scene import Scene, scene
from support.torture import Torture

pytestmark = [pytest.mark.host, pytest.mark.torture(least_s=120)]

ROUNDS = 2
JOBS = 20
"""Jobs that are handed out at a time (count)."""

BLOWS = 4
"""Kills in each round, at least one of which makes the controller forget (count)."""

WORKFLOWS = {"once": RUN, "again": RUN}


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
            _let_one_retry(at)
            blows = Blows(at, draw)
            try:
                for number in range(ROUNDS * torture.size):
                    if torture.is_over and number >= ROUNDS:
                        break
                    await _round(at, blows, jobs)
                    took_s = time.monotonic() - began
                    print(f"round {number}: {took_s:.0f} s", flush=True)
                # The next daemon tidies at its start.
                at.daemon.kill()
                at.daemon.start()
                await at.daemon.until_logged("daemon_ready", pid=at.daemon.process.pid)
                await at.cluster.unheld()
            finally:
                for log in cluster.folder.glob("*.log"):
                    shutil.copy(log, tmp_path)
            _tell(at, jobs, blows, torture.seed, time.monotonic() - began)
            _judge(at, jobs, torture.seed)


def _let_one_retry(at: Scene) -> None:
    """Let one of the workflows retry; its daemon has been started before."""
    file, table = at.daemon.config, '[workflows."again"]'
    file.write_text(file.read_text().replace(table, f"{table}\nmax_retries = 2"))
    at.daemon.kill()
    at.daemon.start()


async def _round(at: Scene, blows: Blows, jobs: list[Job]) -> None:
    fresh = [
        Job.drawn(len(jobs) + each, list(WORKFLOWS), blows.draw) for each in range(JOBS)
    ]
    jobs += fresh
    surely = blows.draw.randrange(BLOWS)
    at.cluster.remember()
    for job in fresh:
        at.hand_out(job.id, job.workflow)
    for number in range(BLOWS):
        await _some_accepted(at, fresh, blows.draw.randrange(JOBS))
        await anyio.sleep(blows.draw.uniform(0, 2))
        if blows.draw.random() < 0.5:
            at.cluster.remember()
            await anyio.sleep(blows.draw.uniform(0, 2))
        await blows.deal(amnesia=number == surely or blows.draw.random() < 0.25)
    await accepted(at, jobs)
    await ended(at, jobs, 600)


async def _some_accepted(at: Scene, jobs: list[Job], count: int) -> None:
    """Wait for a while until so many jobs are accepted, so that a kill finds many alive."""
    ids = {job.id for job in jobs}
    with anyio.move_on_after(5):
        await at.cloud.until(lambda cloud: len(ids & set(cloud.accepted)) >= count)


def _judge(at: Scene, jobs: list[Job], seed: int) -> None:
    starts = Counter((at.folder / "ledger").read_text().splitlines())
    twice = {start for start, count in starts.items() if count > 1}
    assert not twice, (seed, twice)
    ends = [(job, at.cloud.finished[job.id]) for job in jobs]
    wrong = [(job, end) for job, end in ends if not _is_right(job, end, starts)]
    assert not wrong, (seed, wrong)
    assert not list((at.daemon.state / "jobs").iterdir()), seed
    assert not list((at.daemon.state / "slurm").iterdir()), seed


def _is_right(job: Job, end: dict[str, str], starts: Counter[str]) -> bool:
    """Return whether a job is reported as it ended, or as lost or cancelled by Slurm, in words."""
    has_begun = any(start.startswith(f"{job.id} ") for start in starts)
    status, cause = end["result_status"], end.get("result_cause")
    if status == "succeeded":
        return job.code == 0 and has_begun and end["result_output"] == f"of {job.id}\n"
    if cause == "exit-code":
        told = f"exit code {job.code}" in end["result_summary"]
        return told and has_begun and end["result_output"] == f"of {job.id}\n"
    if status == "aborted":
        return "was cancelled" in end["result_summary"]
    return cause == "lost" and "Slurm" in end["result_summary"]


def _tell(at: Scene, jobs: list[Job], blows: Blows, seed: int, took_s: float) -> None:
    ends = Counter(
        end.get("result_cause") or end["result_status"]
        for end in map(at.cloud.finished.get, [job.id for job in jobs])
        if end
    )
    events = Counter(str(line.get("event")) for line in at.daemon.log())
    seen = {
        name: count
        for name, count in events.items()
        if name.startswith("slurm_") or name in ("attempt_failed", "start_failed")
    }
    print(f"seed {seed}: {len(jobs)} jobs in {took_s:.0f} s; ends {dict(ends)}")
    print(f"kills {dict(blows.dealt)}; log {seen}")
