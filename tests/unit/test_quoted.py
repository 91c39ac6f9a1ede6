"""Quotes of texts by others: never longer than asked, and no word in them is halved."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence
from dispatchd.agent.endpoint.responses import Reply, refuse_errors
from dispatchd.agent.run_loop.decisions import Gathered, judged
from dispatchd.agent.store.evidence import command_lines
from dispatchd.errors import RemoteError
from dispatchd.linux.file_holes import cut_middle
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Exit
from dispatchd.redaction.quoted import quoted
from dispatchd.redaction.redactor import Redactor
from support.records import NOW

SECRET = "Zq7Lx2Vd9Kp4Rt6Wm1Yb8Nc3Hf5Jg0Aa"


@given(st.text(alphabet="ab \n\t", max_size=400), st.integers(1, 60))
def test_each_word_of_a_quote_is_whole(text: str, most: int) -> None:
    line = quoted(text, most)

    words, whole = line.removesuffix("…").split(), text.split()
    assert len(line) <= most + 1
    assert words == whole[: len(words)]
    assert line.endswith("…") is (words != whole)


@given(st.integers(150, 220))
def test_a_secret_is_quoted_whole_or_not_at_all(at: int) -> None:
    line = quoted("x" * at + " " + SECRET + " and more", 200)

    assert SECRET in line or SECRET[:6] not in line


def test_a_very_long_text_ends_between_words() -> None:
    text = " " * 65_520 + SECRET

    assert SECRET[:6] not in quoted(text, 200)


def test_a_redirect_is_named_without_its_query() -> None:
    location = "https://login.example/start?state=eyJhbGciOiJIUzI1NiJ9.eyJh#x"
    reply = Reply(status=302, headers={"location": location}, body=b"")

    with pytest.raises(RemoteError) as refused:
        refuse_errors("pull", reply, about_a_job=False, now=NOW)

    assert "https://login.example/start" in refused.value.reason
    assert "eyJ" not in refused.value.reason


def test_a_reason_that_shrinks_shows_no_part_of_a_secret() -> None:
    """Its spaces are collapsed after it was redacted."""
    story = Story()
    reason = ("          it failed\n" * 205)[:4090] + SECRET
    story.feed(json.dumps({"type": "block", "reason": reason}).encode())

    shown = story.shown(Redactor.of([SECRET]).scrub).blocked

    assert shown is not None
    assert SECRET[:6] not in shown


def test_a_log_command_whose_rest_was_cut_out_is_none(tmp_path: Path) -> None:
    file, most = tmp_path / "output.log", 64 * 1024
    line = b"::error::login failed with " + SECRET.encode() + b"\n"
    before = b"x" * (most // 4 - len(line) // 2 - 20) + b"\n"
    file.write_bytes(b"::notice::first\n" + before + line + b"y" * 4 * most + b"\n")
    assert len(list(command_lines(file))) == 2

    assert cut_middle(file, most)

    assert list(command_lines(file)) == ["::notice::first"]


def test_the_reason_of_an_engine_is_withheld_where_secrets_are_not_known() -> None:
    end = Exit(code=3, note=f"worker said {SECRET}")
    evidence = Evidence(end=end, contract=Contract.PLAIN, story=Story(), duration_s=1)

    record = TrackedJob(
        job=Job(id="j", workflow="it"),
        run_id="j",
        phase=Phase.RUNNING,
        received_at=NOW,
        changed_at=NOW,
    )

    judgement = judged(record, Gathered(evidence=evidence, secrets_known=False), str)

    assert SECRET not in judgement.summary
    assert "withheld" in judgement.summary
