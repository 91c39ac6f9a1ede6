"""The log is written as well as it can be: no line, encoding or closed stream ends a program."""

import ast
import io
import json
import os
import pty
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog

import dispatchd
from dispatchd.linux import log
from dispatchd.redaction.known_secrets import KnownSecrets
from support.logs import own_log

NOBODY = 65534

TEXTS = ["déploy-🚀", "job-\ud800", "\x00\x1b[31m", "line\nline"]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "cp1252", "koi8-r"])
def test_a_line_is_written_in_each_encoding(encoding: str, form: str) -> None:
    kept = io.BytesIO()
    out = io.TextIOWrapper(kept, encoding=encoding)
    with own_log():
        log.configure("info", form, known=KnownSecrets(), under_systemd=True, out=out)
        for text in TEXTS:
            structlog.get_logger().info("it_happened", job_id=text)
        structlog.get_logger().info("the_last")
        out.flush()

    lines = kept.getvalue().decode(encoding)
    assert lines.count("it_happened") == len(TEXTS)
    assert "the_last" in lines
    assert ("d\\xe9ploy" if encoding in {"ascii", "koi8-r"} else "ploy") in lines or (
        form == "json"
    )


def test_half_a_surrogate_pair_is_an_escape_in_text() -> None:
    out = io.StringIO()
    with own_log():
        log.configure(
            "info", "text", known=KnownSecrets(), under_systemd=False, out=out
        )
        structlog.get_logger().info("it_happened", job_id="job-\ud800")

    assert "job-\\ud800" in out.getvalue()


def test_json_stays_json() -> None:
    out = io.StringIO()
    with own_log():
        log.configure(
            "info", "json", known=KnownSecrets(), under_systemd=False, out=out
        )
        for text in TEXTS:
            structlog.get_logger().info("it_happened", job_id=text)

    read = [json.loads(line)["job_id"] for line in out.getvalue().splitlines()]
    assert read == TEXTS


def test_a_closed_stream_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with own_log():
        log.configure(
            "info", "text", known=KnownSecrets(), under_systemd=False, out=out
        )
        out.close()
        structlog.get_logger().error("nobody_hears_it")
        monkeypatch.setattr(sys, "stdout", None)
        log.configure("info", "auto", known=KnownSecrets(), under_systemd=False)
        structlog.get_logger().error("nobody_hears_it")


_CALLS = {
    *("debug", "info", "warning", "error", "exception", "critical"),
    *("bind", "bind_contextvars", "bound_contextvars", "note", "_note_refused"),
}
"""The calls that give keys to our log lines, by their names."""


def keys_of(source: ast.AST) -> Iterator[str]:
    """Yield the keys that a module gives to log lines, also those in dictionaries that it unpacks there."""
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_context"):
            yield from _in_dictionaries(node)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name not in _CALLS:
            continue
        for each in node.keywords:
            if each.arg is None:
                yield from _in_dictionaries(each.value)
            else:
                yield each.arg


def _in_dictionaries(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Dict):
            names = (getattr(key, "value", None) for key in each.keys)
            yield from (name for name in names if isinstance(name, str))


def test_no_key_of_our_own_lines_is_taken_for_that_of_a_secret() -> None:
    folder = Path(dispatchd.__file__).parent
    keys = {
        key
        for file in folder.rglob("*.py")
        for key in keys_of(ast.parse(file.read_text("utf-8")))
    }

    assert keys >= {"by", "status", "address", "job_id", "run_id", "reason"}
    scrub = KnownSecrets().scrub
    for value in ("alice-1", "17", "read"):
        forms = {key: (f'"{key}": "{value}"', f" {key}={value}") for key in keys}
        taken = [
            key
            for key, texts in forms.items()
            if any(scrub(text) != text for text in texts)
        ]
        assert taken == []
        # What the test would find.
        assert scrub(f'"token": "{value}"') != f'"token": "{value}"'


# Readers that have stopped reading


@contextmanager
def full_pipe() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """Yield the write end of a pipe without room, and its read end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    out = os.fdopen(write_end, "w", encoding="utf-8")
    try:
        yield out, read_end
    finally:
        os.close(read_end)
        with suppress(OSError):
            out.close()


def test_nobody_waits_for_a_reader_that_has_stopped_reading() -> None:
    with full_pipe() as (out, read_end), own_log():
        log.configure(
            "info", "json", known=KnownSecrets(), under_systemd=False, out=out
        )
        for number in range(100):
            structlog.get_logger().info("into_a_full_pipe", number=number)
        filled = _drained(read_end)
        structlog.get_logger().info("there_is_room")
        lines = [json.loads(each) for each in _drained(read_end).splitlines()]

    assert filled.strip(b"x") == b""
    assert [each["event"] for each in lines] == ["there_is_room"]
    assert lines[0]["lines_dropped_before"] == 100


def test_a_line_that_is_longer_than_the_room_is_ended_before_the_next_one() -> None:
    with full_pipe() as (out, read_end), own_log():
        log.configure(
            "info", "json", known=KnownSecrets(), under_systemd=False, out=out
        )
        os.read(read_end, 8192)
        structlog.get_logger().info("long_one", text="y" * 20_000)
        structlog.get_logger().info("dropped")
        filled = _drained(read_end)
        structlog.get_logger().info("after")
        rest = filled.lstrip(b"x") + _drained(read_end)

    lines = [json.loads(each) for each in rest.splitlines()]
    events = [each["event"] for each in lines]
    assert events == ["long_one", "after"]
    assert lines[1]["lines_dropped_before"] == 1
    assert lines[0]["text"] == "y" * 20_000


def test_a_socket_and_a_terminal_without_readers_keep_nobody_waiting() -> None:
    ours, theirs = socket.socketpair()
    controller, terminal = pty.openpty()
    with theirs, own_log():
        for descriptor in (ours.detach(), terminal):
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                log.configure(
                    "info", "json", known=KnownSecrets(), under_systemd=False, out=out
                )
                for number in range(2_000):
                    structlog.get_logger().info("unread", text="z" * 500, number=number)
                assert os.get_blocking(descriptor)
    os.close(controller)


@pytest.mark.parametrize("colours", [True, False])
def test_text_has_colours_where_they_are_asked_for(*, colours: bool) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w", encoding="utf-8") as out, own_log():
        log.configure(
            "info",
            "text",
            known=KnownSecrets(),
            under_systemd=False,
            colours=colours,
            out=out,
        )
        structlog.get_logger().info("seen")
        assert (b"\x1b[" in _drained(read_end)) is colours
    os.close(read_end)


def test_a_reader_that_goes_away_ends_nothing() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w", encoding="utf-8") as out, own_log():
        log.configure(
            "info", "json", known=KnownSecrets(), under_systemd=False, out=out
        )
        os.close(read_end)
        structlog.get_logger().info("nobody_reads")


def _drained(read_end: int) -> bytes:
    found = b""
    while select.select([read_end], [], [], 0)[0]:
        found += os.read(read_end, 65536)
    return found


def test_a_pipe_of_another_user_keeps_nobody_waiting() -> None:
    """There is no second way to it, as there is to one of ours."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    with full_pipe() as (out, read_end), own_log():
        os.fchmod(out.fileno(), 0o600)
        os.seteuid(NOBODY)
        try:
            log.configure(
                "info", "json", known=KnownSecrets(), under_systemd=False, out=out
            )
            structlog.get_logger().info("dropped")
            filled = _drained(read_end)
            structlog.get_logger().info("read", text="y" * 20_000)
            lines = [json.loads(each) for each in _drained(read_end).splitlines()]
        finally:
            os.seteuid(0)

    assert filled.strip(b"x") == b""
    assert [each["event"] for each in lines] == ["read"]


def test_what_a_full_disk_did_not_take_is_not_written_later() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as out, own_log():
        log.configure(
            "info", "json", known=KnownSecrets(), under_systemd=False, out=out
        )
        structlog.get_logger().info("no_room")
        out.flush()
