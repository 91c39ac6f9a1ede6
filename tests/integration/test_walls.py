"""The sandbox: what a run reaches, what it doesn't, and that everyday tools go on working behind it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.domain.isolation import Isolation
from dispatchd.process.landlock import able
from support.walls import ATTEMPTS, EVERYDAY, Scene, new_scene, tried

pytestmark = pytest.mark.skipif(able().abi < 6, reason="needs Landlock of Linux 6.12")


@pytest.fixture
def scene() -> Iterator[Scene]:
    with new_scene() as made:
        yield made


async def test_a_run_reaches_nothing_of_the_daemon_nor_of_other_runs(
    scene: Scene,
) -> None:
    well, output = await tried(scene, ATTEMPTS, Isolation.SANDBOX)

    assert well == set(), output


async def test_a_run_without_isolation_reaches_what_the_daemon_s_user_does(
    scene: Scene,
) -> None:
    names = (
        "list the daemon's records",
        "read the machine's secret",
        "signal its shim",
    )
    well, output = await tried(
        scene, {name: ATTEMPTS[name] for name in names}, Isolation.NONE
    )

    assert well == set(names), output


async def test_everyday_work_goes_on_behind_the_wall(scene: Scene) -> None:
    well, output = await tried(scene, EVERYDAY, Isolation.SANDBOX)

    assert set(EVERYDAY) - well == set(), output


def test_the_docs_list_what_is_tried() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()

    assert re.findall(r"^\| (.+?) \| denied \|", page, re.MULTILINE) == list(ATTEMPTS)
