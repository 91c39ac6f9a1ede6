"""A controller of Slurm that is killed forgets what it has acknowledged, and gives its ids to other jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine_scene import WAITS
from support.slurm import Cluster, booted
from support.slurm_scene import scene

pytestmark = pytest.mark.host


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with booted() as up:
        yield up


@pytest.mark.parametrize("step", ["sbatch.after", "scontrol.after", "running"])
async def test_a_controller_that_forgets_a_job_makes_it_neither_lost_nor_run_twice(
    cluster: Cluster, tmp_path: Path, step: str
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.cluster.remember()
        if step != "running":
            at.steps.hold(step)
        at.hand_out("j", "it")
        await (at.until_running() if step == "running" else at.steps.until_reached())
        at.cluster.forget()
        at.steps.let_go(step)
        await at.until_running()
        at.go()
        end = await at.finished("j")
        await at.cluster.unheld()

    assert "exit code 4" in end["result_summary"], end
    assert at.runs == 1


async def test_a_controller_that_is_killed_right_after_a_release_runs_nothing_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        # What it has put by now is a matter of its luck: the job held, waiting, running, or none at all.
        at.cluster.kill_controller()
        at.cluster.start_controller()
        at.go()
        end = await at.finished("j")
        await at.cluster.unheld()

    assert "exit code 4" in end["result_summary"], end
    assert at.runs == 1
