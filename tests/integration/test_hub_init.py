"""A new hub is whole and in its folder, whatever that is called, or isn't made at all."""

import os
import resource
import shlex
import tomllib
from pathlib import Path

import pytest

from dispatchd.errors import ConfigError, UserError
from dispatchd.hub.init import init
from support.cli import dispatchd
from support.kill_init import kill_init

DEFAULTS = {
    "listen": "127.0.0.1:0",
    "database_url": "sqlite:///hub.db",
    "license_id": "self-hosted",
}


@pytest.mark.parametrize(
    "name", ["plain", "q?x=1", "p%20q", "h#x", "mü 🚀", "a;b:c@d&e=f", "+", "line\nend"]
)
def test_everything_is_in_the_hubs_folder_whatever_its_name_means_in_a_url(
    tmp_path: Path, name: str
) -> None:
    init(tmp_path / name, **DEFAULTS)

    assert [each.name for each in tmp_path.iterdir()] == [name]
    made = {each.name for each in (tmp_path / name).iterdir()}
    assert {"hub.toml", "hub.db", "admin-token"} <= made


def test_a_database_elsewhere_is_where_its_url_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/else%20where/hub.db"
    init(tmp_path / "hub", **{**DEFAULTS, "database_url": url})

    assert (tmp_path / "else where" / "hub.db").is_file()


def test_what_was_asked_for_is_in_the_file_as_it_was_asked_for(tmp_path: Path) -> None:
    license_id = 'a "quoted" \\ ü\t🚀'
    init(tmp_path, **{**DEFAULTS, "license_id": license_id})

    assert (
        tomllib.loads((tmp_path / "hub.toml").read_text())["license_id"] == license_id
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://x:y@[::1/z",
        "postgresql://h:port/z",
        "sqlite+nothing:///x",
        "postgresql+x://h/z",
    ],
)
def test_an_address_that_is_none_is_said_and_leaves_nothing(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(UserError):
        init(tmp_path, **{**DEFAULTS, "database_url": url})

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most_bytes", [0, 512, 64 * 1024])
def test_a_try_without_room_leaves_nothing_that_keeps_the_next_from_being_made(
    tmp_path: Path, most_bytes: int
) -> None:
    """The room ends in hub.toml, or in the database."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        with pytest.raises(UserError):
            init(tmp_path / "hub", **DEFAULTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    init(tmp_path / "hub", **DEFAULTS)


@pytest.mark.parametrize("at_byte", [512, 16 * 1024])
def test_a_call_that_was_killed_is_made_again(tmp_path: Path, at_byte: int) -> None:
    """The kill comes in hub.toml, or in the database."""
    kill_init(tmp_path / "hub", at_byte)

    made = init(tmp_path / "hub", **DEFAULTS)

    assert made.settings.token_file.read_text().strip()
    left = {each.name for each in (tmp_path / "hub").iterdir()}
    assert {"hub.toml", "admin-token"} <= left
    assert not any(name.endswith(".new") for name in left)


def test_a_token_that_was_there_before_the_end_stays(tmp_path: Path) -> None:
    """The kill came just before the configuration: the folder is that of a whole hub without it."""
    token = init(tmp_path, **DEFAULTS).settings.token_file.read_text()
    (tmp_path / "hub.toml").unlink()

    assert init(tmp_path, **DEFAULTS).settings.token_file.read_text() == token


def test_somebody_elses_token_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("mine")
    with pytest.raises(OSError, match="exists"):
        init(tmp_path, **DEFAULTS)

    assert (tmp_path / "admin-token").read_text() == "mine"
    assert not (tmp_path / "hub.toml").exists()


def test_a_folder_that_is_no_text_is_said_and_stays_empty(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"h\xff")
    with pytest.raises(ConfigError, match="name is UTF-8"):
        init(folder, **DEFAULTS)

    assert not list(folder.iterdir())


def test_a_command_shows_such_a_folder_in_one_line(tmp_path: Path) -> None:
    said = dispatchd("hub", "init", str(tmp_path / os.fsdecode(b"h\xff")))

    assert said.returncode == os.EX_CONFIG
    assert said.stderr.count("\n") == 1


def test_the_next_commands_can_be_pasted_whatever_the_folder_is_called(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "our hub's"
    done = dispatchd("hub", "init", str(folder), "--listen", "127.0.0.1:0")

    commands = [
        line.removeprefix("Next:").strip()
        for line in done.stdout.partition("\nNext:")[2].splitlines()
    ]
    assert commands
    for command in commands:
        assert shlex.split(command)[-1] == str(folder / "hub.toml")
