"""What the daemon's surroundings open for its runs, and what leads out of a sandbox."""

import socket
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dispatchd.agent.domain.launch import Launch
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


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("state", "cache", "private", "tools")}
    for folder in found.values():
        (folder / "inner").mkdir(parents=True)
    return found


def additions(paths: dict[str, Path], **more: Any) -> set[str]:
    """Return what the owner's additions open, where runs may write the cache."""
    walls = Walls.here({"PATH": "/usr/bin"}, (paths["state"],))
    files = paths["state"] / "runs/r/attempt-1/run"
    launch = Launch(
        **{
            "run_id": "r",
            "command": ("/bin/true",),
            "env": {},
            "workspace": files / "workspace",
            "folder": files.parent,
            "output_file": files / "output.log",
            "files": files,
            "writable_paths": (str(paths["cache"]),),
            **more,
        }
    )
    opened = {rule.path for rule in walls.openings(launch)}
    return {each for each in opened if each.startswith(str(paths["state"].parent))} - {
        str(files),
        str(launch.workspace),
    }


@pytest.mark.parametrize("key", ["read_paths", "write_paths"])
@pytest.mark.parametrize("way", ["inner", "inner/further", "aside/../link"])
def test_a_link_that_a_run_may_have_made_is_not_followed(
    paths: dict[str, Path], key: str, way: str
) -> None:
    cache, private = paths["cache"], paths["private"]
    (private / "further").mkdir()
    (cache / "inner").rmdir()
    (cache / "inner").symlink_to(private)
    (cache / "aside").mkdir()
    (cache / "link").symlink_to(private)

    assert additions(paths, **{key: (str(cache / way),)}) == set()
    # By way of a link of the owner's, too.
    own = paths["tools"] / "own"
    own.symlink_to(cache / way)
    assert additions(paths, **{key: (str(own),)}) == set()


@pytest.mark.parametrize("key", ["read_paths", "write_paths"])
def test_the_owners_links_are_followed(paths: dict[str, Path], key: str) -> None:
    cache, tools = paths["cache"], paths["tools"]
    (tools / "newest").symlink_to("inner")
    (tools / "cache").symlink_to(cache)

    named = (str(tools / "newest"), str(tools / "cache"), str(cache / "inner"))
    real = {str(tools / "inner"), str(cache), str(cache / "inner")}
    assert additions(paths, **{key: named}) == real


def test_a_program_opens_neither_secrets_nor_the_daemons_folders(
    paths: dict[str, Path],
) -> None:
    program = paths["tools"] / "program"
    program.touch()
    assert additions(paths, command=(str(program),)) == {str(program)}
    secret = paths["private"] / "secret"
    secret.touch()
    for target in (paths["state"] / "inner", secret):
        program.unlink()
        program.symlink_to(target)
        found = additions(paths, command=(str(program),), hidden_paths=(str(secret),))
        assert found == set()


def test_links_in_a_circle_are_no_way(paths: dict[str, Path]) -> None:
    (paths["cache"] / "a").symlink_to("b")
    (paths["cache"] / "b").symlink_to("a")
    (paths["tools"] / "b").symlink_to("../cache/a/../b")

    named = tuple(str(paths[name] / "b") for name in ("cache", "tools"))
    opened = additions(paths, read_paths=named)
    assert not any(Path(each).exists() for each in opened)
