"""`dispatchd doctor` names the cause of each kind of broken set-up, and is content with a good one."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from support.cli import command
from support.daemon import running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.licenses import Issuer, config_lines


async def doctor(config: Path, **env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and for each check its worst level with its words."""
    done = await command(
        "doctor",
        "--json",
        "--config",
        str(config),
        env={"PATH": "/usr/bin:/bin", "HOME": "/", **env},
    )
    assert done.stderr == ""
    order = ("ok", "warning", "failed")
    found: dict[str, tuple[str, str]] = {}
    for each in json.loads(done.stdout):
        known = found.get(each["check"], ("ok", ""))
        if order.index(each["level"]) >= order.index(known[0]):
            found[each["check"]] = (each["level"], each["message"])
    return done.returncode, found


def good(tmp_path: Path, hub: Endpoint) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    commands = {"it": ["/bin/true"]}
    return write_config(tmp_path, hub.url, commands, isolation="sandbox")


async def test_a_good_set_up_is_ok_in_every_line(tmp_path: Path) -> None:
    def now(_: Request) -> Answer:
        date = format_datetime(datetime.now(UTC), usegmt=True)
        return as_json({"message": "no such job"}, 404, date=date)

    async with endpoint() as hub:
        hub.script = now
        code, found = await doctor(good(tmp_path, hub))

    # Of a daemon of root there is a warning.
    assert code == (1 if os.geteuid() == 0 else 0), found
    others = {name: level for name, (level, _) in found.items() if name != "isolation"}
    assert set(others.values()) == {"ok"}
    assert set(found) >= {
        "config",
        "state folder",
        "disk space",
        "secret",
        "workflows",
        "isolation",
        "proxy",
        "endpoint",
        "clock",
    }


async def test_it_says_what_a_running_daemon_says_of_itself(tmp_path: Path) -> None:
    """The daemon's unit forbids what the shell of whoever asks may; here, its PATH is another one."""
    socket = tmp_path / "state" / "control.sock"
    async with endpoint() as hub:
        config = good(tmp_path, hub)
        config.write_text(f'{config.read_text()}isolation = "bubblewrap"\n')
        before = await doctor(config)
        async with running_daemon(config, env={"PATH": str(tmp_path)}):
            running = await doctor(config)
            aside = socket.rename(tmp_path / "aside.sock")
            socket.write_text("")
            taken = await doctor(config)
            aside.replace(socket)

    assert before[1]["daemon"] == ("ok", "it isn't running")
    assert running[0] == 1
    assert running[1]["daemon"][0] == "warning"
    assert "bubblewrap isn't installed" in running[1]["daemon"][1]
    assert taken[1]["daemon"][0] == "warning"
    assert "no daemon is running" in taken[1]["daemon"][1]


Break = Callable[[Path], None]


def change(old: str, new: str) -> Break:
    def act(config: Path) -> None:
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))

    return act


def shut(config: Path) -> None:
    (config.parent / "secret").chmod(0o644)


def opened(config: Path) -> None:
    (config.parent / "state").chmod(0o755)


BROKEN: dict[str, tuple[Break, str, str, str]] = {
    "bad configuration": (
        change("[runs]", "[runs]\nslots = 0"),
        "config",
        "failed",
        "runs.slots: must be 1 or more",
    ),
    "plain http elsewhere": (
        change("http://127.0.0.1", "http://192.0.2.1"),
        "config",
        "failed",
        "cloud.url",
    ),
    "a CA that is none": (
        change("[store]", 'ca_file = "secret"\n[store]'),
        "config",
        "failed",
        "cloud.ca_file",
    ),
    "an open secret": (shut, "secret", "warning", "chmod 600"),
    "an open state folder": (opened, "state folder", "warning", "chmod 700"),
    "too little space": (
        change("min_free_mib = 0", "min_free_mib = 1000000000"),
        "disk space",
        "failed",
        "make room",
    ),
    "a program that is missing": (
        change("/bin/true", "/no/such/program"),
        "workflows",
        "warning",
        "/no/such/program",
    ),
    "a clock that is off": (lambda _: None, "clock", "warning", "the endpoint's"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_each_kind_of_trouble_on_this_machine_is_named(
    tmp_path: Path, name: str
) -> None:
    act, check, level, words = BROKEN[name]
    async with endpoint() as hub:
        hub.script = lambda _: as_json(
            {"message": "no such job"}, 404, date="Mon, 01 Jan 2024 00:00:00 GMT"
        )
        config = good(tmp_path, hub)
        act(config)

        code, found = await doctor(config)

    assert found[check][0] == level, found
    assert words in found[check][1]
    assert code == {"warning": 1, "failed": 2}[level]


ANSWERS: dict[str, tuple[Answer, str]] = {
    "unknown credentials": (
        as_json({"message": "who are you?"}, 401),
        "rejected this machine's credentials",
    ),
    "a proxy's page": (
        Answer(status=200, body=b"<html>", headers={"content-type": "text/html"}),
        "a proxy's or a login page?",
    ),
    "a server error": (Answer(status=503), "status 503"),
    "nothing": (Answer(cut=True), "closed without an answer"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_kind_of_trouble_at_the_endpoint_is_named(
    tmp_path: Path, name: str
) -> None:
    answer, words = ANSWERS[name]
    async with endpoint() as hub:
        hub.script = lambda _: answer

        code, found = await doctor(good(tmp_path, hub))

    assert code == 2
    assert words in found["endpoint"][1]


@pytest.mark.parametrize(
    ("url", "env", "words"),
    [
        ("http://127.0.0.1:1", {}, "refuses connections"),
        ("https://no-such-host.invalid", {}, "name|resol"),
        (
            "https://hub.example",
            {"HTTPS_PROXY": "http://127.0.0.1:1"},
            "proxy 127.0.0.1:1",
        ),
    ],
)
async def test_each_kind_of_trouble_on_the_way_is_named(
    tmp_path: Path, url: str, env: dict[str, str], words: str
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    config = write_config(tmp_path, url, {"it": ["/bin/true"]})

    code, found = await doctor(config, **env)

    assert code == 2
    assert re.search(words, found["endpoint"][1]), found


async def test_a_missing_license_is_named(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = good(tmp_path, hub)
        lines = [
            line
            for line in config.read_text().splitlines()
            if not line.startswith(("license_id", "server_id", "secret_file"))
        ]
        config.write_text("\n".join([*lines, config_lines(Issuer())]))

        code, found = await doctor(config)

    assert code == 2
    assert "there is no license" in found["license"][1]


async def test_the_doctor_takes_no_work(tmp_path: Path) -> None:
    asked: list[Any] = []

    def note(request: Request) -> Answer:
        asked.append(request.call)
        return as_json({"message": "no such job"}, 404)

    async with endpoint() as hub:
        hub.script = note
        await doctor(good(tmp_path, hub))

    assert asked == ["accept"]
