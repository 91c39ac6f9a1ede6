"""The sandbox: what a run reaches, what it doesn't, and that everyday tools go on working behind it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.domain.isolation import Isolation
from dispatchd.process.landlock import able
from support.walls import (
    ATTEMPTS,
    EVERYDAY,
    NEEDS,
    OPEN,
    TOOLS,
    Scene,
    is_tried,
    new_scene,
    table,
    tried,
)

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


@pytest.mark.host
async def test_tools_work_behind_the_wall(scene: Scene) -> None:
    well, output = await tried(scene, TOOLS, Isolation.SANDBOX)

    there = {name for name in TOOLS if name not in NEEDS or shutil.which(NEEDS[name])}
    assert there - well == set(), output


async def test_what_stays_open_is_what_the_docs_say(scene: Scene) -> None:
    well, output = await tried(scene, OPEN, Isolation.SANDBOX)

    assert well == {name for name in OPEN if is_tried(name)}, output


def test_the_docs_have_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()

    assert table() in page
