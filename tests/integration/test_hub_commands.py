"""Commands of a hub believe a hub alone: what answers in its place, with whatever status, has done nothing."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatchd.hub.init import init
from support.cli import command, dispatchd
from support.hub import HubHere
from support.hub import hub as serving
from support.raw_answers import raw_answers

COMMANDS = (
    ("jobs",),
    ("show", "j"),
    ("cancel", "j"),
    ("requeue", "j"),
    ("submit", "-"),
    ("pause",),
    ("resume",),
    ("prune", "--days", "1"),
    ("deliveries",),
    ("redeliver", "d"),
    ("machines",),
    ("machine", "add", "m"),
    ("machine", "rotate", "m"),
    ("machine", "bind", "m", "--any"),
    ("machine", "revoke", "m"),
    ("token", "add", "t", "--scope", "read"),
    ("token", "revoke", "t"),
    ("token", "list"),
    ("github", "status"),
)

PAGE = b"<html>Please sign in</html>"
ANSWERS: Mapping[str, tuple[int, str, bytes]] = {
    "page": (200, "text/html", PAGE),
    "page as JSON": (200, "application/json", PAGE),
    "nothing": (200, "application/json", b""),
    "null": (200, "application/json", b"null"),
    "list": (200, "application/json", b"[]"),
    "too deep": (200, "application/json", b"[" * 100_000),
    "bytes": (200, "application/json", b"\xff\xfe"),
    "empty": (200, "application/json", b"{}"),
    "other API": (200, "application/json", b'{"jobs": [1], "machines": [{}], "ok": 1}'),
    "no rows": (200, "application/json", b'{"jobs": null, "deliveries": 5}'),
    "redirect": (302, "text/html", PAGE),
    "sign-on": (401, "text/html", PAGE),
    "message": (500, "application/json", b'{"message": {"no": "text"}}'),
}

READ_BY = (("jobs",), ("submit", "-"), ("machine", "rotate", "m"), ("github", "status"))
"""Commands that read an answer each in another way: a list, a new id, a key, a document."""

BY_ALL = ("page", "empty", "message")
"""Answers that every command gets in `make test`: no JSON, JSON without what is wanted, and an error of another API."""


def whole(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} It\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("answer", "commands"),
    [
        *[
            pytest.param(each, COMMANDS if name in BY_ALL else READ_BY, id=name)
            for name, each in ANSWERS.items()
        ],
        *[
            pytest.param(each, COMMANDS, id=f"{name} to all", marks=pytest.mark.torture)
            for name, each in ANSWERS.items()
            if name not in BY_ALL
        ],
    ],
)
async def test_what_is_not_the_hubs_answer_is_said_in_one_line(
    answer: tuple[int, str, bytes], commands: tuple[tuple[str, ...], ...]
) -> None:
    async with raw_answers(lambda: whole(*answer)) as server:
        for words in commands:
            said = await command(
                "hub",
                *words,
                *("--url", server.url),
                env={"DISPATCHD_HUB_TOKEN": "t"},
                text='{"dag_name": "it"}',
            )
            assert said.returncode in {os.EX_UNAVAILABLE, os.EX_USAGE}, (words, said)
            assert said.stdout == ""
            assert said.stderr.count("\n") == 1, (words, said)
            assert said.stderr.startswith("dispatchd: cannot "), said
    # A submit that may have been carried out is repeated, under the id of the first.
    assert server.count == len(commands) + (3 if answer[0] >= 500 else 0)


async def test_an_answer_without_a_body_is_that_of_a_revoked_token_alone() -> None:
    async with raw_answers(lambda: b"HTTP/1.1 204 It\r\n\r\n") as server:
        env = {"DISPATCHD_HUB_TOKEN": "t"}
        url = ("--url", server.url)
        revoked = await command("hub", "token", "revoke", "t", *url, env=env)
        others = [
            await command("hub", *words, *url, env=env, text="{}")
            for words in (("pause",), ("jobs",), ("cancel", "j"))
        ]

    assert (revoked.returncode, revoked.stdout) == (0, "t  revoked\n")
    assert {each.returncode for each in others} == {os.EX_UNAVAILABLE}


@pytest.mark.parametrize("token", ["", "\n", "\ufeff\r\n"])
def test_a_token_that_is_none_is_said_with_its_file(tmp_path: Path, token: str) -> None:
    made = init(
        tmp_path,
        listen="127.0.0.1:0",
        database_url="sqlite:///hub.db",
        license_id="self-hosted",
    )
    made.settings.token_file.write_text(token)

    said = dispatchd("hub", "jobs", "--config", str(made.settings.file))

    assert said.returncode == os.EX_USAGE
    assert said.stderr == (
        f"dispatchd: cannot use the token: {made.settings.token_file} has none\n"
    )


async def test_a_job_that_no_machine_has_shows_none(tmp_path: Path) -> None:
    """A machine that was never activated has no server id either."""
    async with serving(tmp_path / "hub") as server:
        config = ("--config", str(server.folder / "hub.toml"))
        await command("hub", "machine", "add", "not-activated", *config)
        await server.submit({"id": "j", "dag_name": "it"})
        shown = await command("hub", "show", "j", "--json", *config)
        rows = await command("hub", "jobs", *config)

    document: dict[str, Any] = json.loads(shown.stdout)
    assert document["machine_name"] == ""
    assert "not-activated" not in rows.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("hub", "token", "add", "t"),
        ("hub", "jobs", "--limit", "0"),
        ("hub", "jobs", "--no-such"),
        ("hub", "keyss"),
    ],
    ids=" ".join,
)
def test_a_mistake_in_a_command_is_one_line(words: tuple[str, ...]) -> None:
    said = dispatchd(*words)

    assert said.returncode == os.EX_USAGE
    assert said.stderr.count("\n") == 1


async def test_a_name_ends_where_it_seems_to_end(tmp_path: Path) -> None:
    async with serving(tmp_path / "hub") as server:
        said = await _added(server, "m\n")

    assert said == (os.EX_USAGE, True)


async def _added(server: HubHere, name: str) -> tuple[int, bool]:
    config = ("--config", str(server.folder / "hub.toml"))
    said = await command("hub", "machine", "add", name, *config)
    return said.returncode, "$.name must have no slash" in said.stderr


SUBMIT = ("submit", "--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*SUBMIT, "/dev/zero"), "it has more than 40 MiB"),
        ((*SUBMIT, "/dev"), "Is a directory"),
        (("prune", "--days", "nan"), "nan is no number"),
        (("prune", "--days", "inf"), "inf is no number"),
        (("init", "/dev/null"), "it is no folder"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(
    arguments: tuple[str, ...], words: str
) -> None:
    done = dispatchd("hub", *arguments, env={"DISPATCHD_HUB_TOKEN": "t"})

    assert done.returncode in {2, os.EX_USAGE}
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 4
