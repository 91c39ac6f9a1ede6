"""The log is written as well as it can be: no line, encoding or closed stream ends a program."""

import ast
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import dispatchd
from dispatchd.process import log
from dispatchd.redaction.known_secrets import KnownSecrets
from support.logs import own_log

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
