"""The log is written as well as it can be: no line, encoding or closed stream ends a program."""

import io
import json
import sys

import pytest
import structlog

from dispatchd import log
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
