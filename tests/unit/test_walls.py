"""What the daemon's surroundings open for its runs, and what leads out of a sandbox."""

import socket
from pathlib import Path

import pytest
from attrs import evolve

from dispatchd.agent.engines.local.walls import Walls
from dispatchd.linux.landlock import able


def opened(programs: Path, home: Path) -> set[Path]:
    """Return what of a home a search path with a folder of it opens."""
    walls = Walls.here({"PATH": f"/usr/bin:{programs}", "HOME": str(home)}, ())
    return {each for each in walls.programs if each.is_relative_to(home)}


def test_an_installation_is_open_as_a_whole(tmp_path: Path) -> None:
    home, tool = tmp_path / "home", tmp_path / "home/tools/node-20"
    (tool / "bin").mkdir(parents=True)
    (tool / "lib").mkdir()

    assert opened(tool / "bin", home) == {tool}


@pytest.mark.parametrize("beside", ["lib", "lib64", "libexec"])
def test_a_home_is_no_installation_whatever_lies_in_it(
    tmp_path: Path, beside: str
) -> None:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / beside).mkdir()

    assert opened(home / "bin", home) == {home / "bin"}


def test_what_a_home_is_in_is_no_installation(tmp_path: Path) -> None:
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (tmp_path / "lib").mkdir()
    walls = Walls.here({"PATH": str(programs), "HOME": str(home)}, ())

    assert programs in walls.programs
    assert tmp_path not in walls.programs


def test_a_home_on_the_search_path_opens_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    assert opened(home, home) == set()
    assert opened(home.parent, home) == set()


@pytest.mark.skipif(able().abi == 0, reason="needs Landlock")
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DOCKER_HOST", "unix://{path}"),
        ("CONTAINER_HOST", "unix://{path}"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path={path},guid=0123"),
        ("XDG_RUNTIME_DIR", "{folder}"),
    ],
)
def test_a_socket_that_leads_out_is_found_wherever_it_is(
    tmp_path: Path, name: str, address: str
) -> None:
    (tmp_path / "podman").mkdir()
    path = tmp_path / "podman/podman.sock"
    walls = Walls.here({name: address.format(path=path, folder=tmp_path)}, ())
    as_user = evolve(walls, uid=12345)
    assert as_user.weakness == ""

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert "leads out of a sandbox" in as_user.weakness


def test_an_engine_on_the_network_is_no_socket() -> None:
    walls = Walls.here({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, ())

    assert not [each for each in walls.ways_out if "2375" in each]
