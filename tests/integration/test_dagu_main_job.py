"""The main job through a distributed Dagu with two workers."""

from pathlib import Path

import pytest

from support.dagu import DISTRIBUTED, WORKERS, dagu_config, running_dagu
from support.engine_scene import commands
from support.github_scene import Repository, scene
from support.main_job import RULES, SCRIPTS, play, with_keys

pytestmark = pytest.mark.host


async def test_a_delivery_of_github_runs_on_two_workers_and_its_checks_say_how(
    tmp_path: Path,
) -> None:
    async with (
        scene(tmp_path, Repository(), RULES) as here,
        running_dagu(
            tmp_path / "dagu", tmp_path / "state", programs=DISTRIBUTED, at_once=4
        ) as dagu,
    ):
        url, scripts = here.hub.server.url, commands(tmp_path, SCRIPTS)
        config = dagu_config(tmp_path, url, scripts, dagu.origin, dagu.key)
        assert await play(tmp_path, here, with_keys(config), dagu.places) == set(
            WORKERS
        )
