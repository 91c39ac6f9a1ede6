"""The main job through a Slurm cluster with two nodes."""

from pathlib import Path

import pytest
from bench.slurm import NODES

from support.engine_scene import commands
from support.github_scene import Repository, scene
from support.main_job import NAMES, RULES, SCRIPTS, play, with_keys
from support.slurm import booted, slurm_config

pytestmark = pytest.mark.host

TWO_ON_A_NODE = f'options = ["--cpus-per-task={2 * 8 // len(NAMES)}"]'
"""Part of an engine's settings with which each node has room for half of the jobs."""


async def test_a_delivery_of_github_runs_on_two_nodes_and_its_checks_say_how(
    tmp_path: Path,
) -> None:
    with booted() as cluster:

        async def places() -> set[str]:
            said = await cluster.run("squeue", "-h", "-t", "RUNNING", "-o", "%N")
            return set(said.split())

        async with scene(tmp_path, Repository(), RULES) as here:
            url, scripts = here.hub.server.url, commands(tmp_path, SCRIPTS)
            config = slurm_config(tmp_path, url, scripts, engine=TWO_ON_A_NODE)
            found = await play(tmp_path, here, with_keys(config), places, cluster.env)
        assert found == set(NODES)
