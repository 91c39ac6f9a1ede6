"""A controller of Slurm that is killed forgets what it has acknowledged, and gives its ids to other jobs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine_scene import WAITS, commands
from support.slurm import Cluster, booted
from support.slurm_scene import scene
from support.until import until

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


async def test_an_attempt_whose_node_is_lost_is_lost_and_begins_again_where_it_may(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = 'echo "$DISPATCHD_JOB_ID $DISPATCHD_ATTEMPT $SLURMD_NODENAME" >>{folder}/nodes; '
    workflows = ["once", "again"]
    command = json.dumps(commands(tmp_path, {"it": script + WAITS})["it"])
    unretried = f'[workflows.once]\nengine = "hpc"\ncommand = {command}'
    async with scene(
        *(tmp_path, cluster, {"again": script + WAITS}),
        limits="max_retries = 1",
        engine=unretried,
    ) as at:
        # Both go to one node: the other one comes back when it is empty.
        await cluster.run(
            "scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=x"
        )
        for name in workflows:
            at.hand_out(name, name)
        await until(lambda: at.runs == len(workflows), 180, "both")
        await cluster.run("scontrol", "update", "NodeName=n2", "State=RESUME")
        cluster.lose("n1")
        await cluster.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=x")
        once = await at.finished("once")
        await until(lambda: at.runs == len(workflows) + 1, 180, "the second attempt")
        at.go()
        again = await at.finished("again")

    assert (once["result_status"], once["result_cause"]) == ("failed", "lost")
    assert "its node failed" in once["result_summary"]
    assert "exit code 4" in again["result_summary"]
    nodes = sorted((tmp_path / "nodes").read_text().splitlines())
    assert nodes == ["again 1 n1", "again 2 n2", "once 1 n1"]
