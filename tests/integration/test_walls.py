"""The sandbox: what a run reaches, what it doesn't, and that everyday tools go on working behind it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.linux.landlock import able
from support.daemon import write_config
from support.daemon_process import running
from support.endpoint import endpoint
from support.walls import (
    ATTEMPTS,
    EVERYDAY,
    OPEN,
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
        # Others than root may be kept from that by Yama.
        *(["trace the daemon"] if os.geteuid() == 0 else []),
    )
    well, output = await tried(
        scene, {name: ATTEMPTS[name] for name in names}, Isolation.NONE
    )

    assert well == set(names), output


async def test_everyday_work_goes_on_behind_the_wall(scene: Scene) -> None:
    well, output = await tried(scene, EVERYDAY, Isolation.SANDBOX)

    assert set(EVERYDAY) - well == set(), output


_ELSEWHERE = """
mount -t tmpfs none /mnt && cp -a /etc /mnt && mount -t tmpfs none /run
mkdir -p /mnt/wsl /run/systemd/userdb /run/userdb
echo nameserver 127.0.0.53 >/mnt/wsl/resolv.conf && ln -sf /mnt/wsl/resolv.conf /mnt/etc/resolv.conf
mount --bind /mnt/etc /etc && touch /run/systemd/userdb/io.systemd.DynamicUser /run/userdb/4242.user
exec "$@"
"""
"""Start a program on a machine whose names are resolved by files that lie elsewhere, as on WSL and with systemd."""


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_names_are_resolved_wherever_the_machine_has_what_that_takes(
    tmp_path: Path,
) -> None:
    script = "cat /etc/resolv.conf && ls /run/systemd/userdb && test -r /run/userdb/4242.user && ! ls /mnt/wsl"
    wrapper = ("unshare", "--mount", "/bin/sh", "-euc", _ELSEWHERE, "sh")
    async with endpoint() as hub:
        workflows = {"it": ["/bin/sh", "-c", script]}
        config = write_config(tmp_path, hub.url, workflows, isolation="sandbox")
        with running(config, wrapper=wrapper):
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "succeeded", finish


async def test_what_stays_open_is_what_the_docs_say(scene: Scene) -> None:
    well, output = await tried(scene, OPEN, Isolation.SANDBOX)

    assert well == {name for name in OPEN if is_tried(name)}, output


def test_the_docs_have_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()

    assert table() in page
