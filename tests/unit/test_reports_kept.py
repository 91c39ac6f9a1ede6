"""What will be reported, between conclusion and finish: written, read back, and put on the wire."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

import support
from dispatchd.agent.endpoint.wire import report_to_wire
from dispatchd.agent.store import reports
from dispatchd.agent.store.evidence import LARGEST_TEXT, Head, read_head
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.errors import StoreUnavailable
from dispatchd.protocol.contracts import check
from dispatchd.protocol.report import MOST_SPANS, Report, RunSpan
from dispatchd.protocol.result import Annotation
from dispatchd.redaction.redactor import Redactor
from support.preload import build

SECRET = "correct-horse-battery-staple"
SCRUB = Redactor.of([SECRET]).scrub
REPORT = Report(
    output="it is done\n",
    step_summary="# Done\n\nin 3 \N{HOURGLASS}\n",
    outputs={"version": "1.2", "empty": "", "two": "a\nb"},
    annotations=(
        Annotation(
            path="a.py",
            start_line=1,
            end_line=2,
            level="failure",
            title="T",
            message="m",
        ),
        Annotation(path="b.py", start_line=3, level="notice", message="n"),
    ),
    spans=(
        RunSpan(kind="phase", name="build", start_seconds=0, duration_seconds=2.5),
        RunSpan(kind="span", name="cc", start_seconds=1, duration_seconds=1, ok=False),
    ),
)
SPAN = {
    "kind": "span",
    "name": "cc",
    "start_seconds": 1,
    "duration_seconds": 2,
    "ok": True,
}
IDENTITY = {"license_id": "l", "server_id": "m", "secret": "s"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    runs = Runs.open(tmp_path)
    runs.create("j", payload="null", headers="null")
    runs.prepare_attempt("j", 1)
    return runs.folder("j")


def test_a_report_comes_back_as_it_was(run: RunFolder) -> None:
    reports.write(run, 1, REPORT)

    assert reports.exist(run, 1)
    assert reports.read(run, 1) == (REPORT, "")


def test_an_attempt_has_empty_files_to_write_to(run: RunFolder) -> None:
    for file in (run.outputs_file(1), run.summary_file(1)):
        assert file.read_bytes() == b""
        assert file.stat().st_mode & 0o777 == 0o600
    assert not reports.exist(run, 1)


def test_a_report_of_the_release_before_is_its_output_alone(run: RunFolder) -> None:
    run.report_file(1).write_text("it is done\n")

    assert reports.exist(run, 1)
    assert reports.read(run, 1) == (Report(output="it is done\n"), "")


def test_what_a_command_has_written_there_itself_is_not_reported(
    run: RunFolder,
) -> None:
    run.report_file(1).write_text(SECRET)
    run.details_file(1).write_text(json.dumps({"step_summary": SECRET}))

    reports.write(run, 1, Report())

    assert not reports.exist(run, 1)
    assert reports.read(run, 1) == (Report(), "")


def test_what_cannot_be_written_is_told(run: RunFolder) -> None:
    run.details_file(1).mkdir()

    with pytest.raises(StoreUnavailable):
        reports.write(run, 1, REPORT)
    assert reports.read(run, 1) == (
        Report(output=REPORT.output),
        "its outputs, step summary, annotations and spans",
    )


def test_a_report_is_durable_once_it_is_written(tmp_path: Path) -> None:
    """Both files are synced, then their folder, then the folder of that one, which is new too."""
    program = f"""
from pathlib import Path
from dispatchd.protocol.report import Report
from dispatchd.agent.store import reports
from dispatchd.agent.store.runs import Runs

runs = Runs.open(Path({str(tmp_path)!r}))
runs.create("j", payload="null", headers="null")
runs.prepare_attempt("j", 1)
Path({str(tmp_path / "log")!r}).unlink()
reports.write(runs.folder("j"), 1, Report(output="x", step_summary="y"))
"""
    library = build(Path(support.__file__).parent / "log_syncs.c", tmp_path)
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "SYNC_LOG": str(tmp_path / "log"),
        },
    )

    run = tmp_path / "runs" / "j"
    synced = [Path(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each.parent for each in synced[:2]] == [run / "attempt-1"] * 2
    assert synced[2:] == [run / "attempt-1", run]


def test_an_output_that_has_gone_is_noticed(run: RunFolder) -> None:
    reports.write(run, 1, REPORT)
    run.report_file(1).unlink()

    assert reports.read(run, 1) == (evolve(REPORT, output=""), "its output")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"step_summary": 5}',
        b'{"outputs": ["a"]}',
        b'{"outputs": {"a": 1}}',
        b'{"annotations": 7}',
        b'{"annotations": [{"path": "a"}]}',
        *(
            json.dumps({name: value, "spans": [{**SPAN, name: value}]}).encode()
            for name, value in (
                ("start_seconds", -1),
                ("start_seconds", 10**400),
                ("duration_seconds", float("nan")),
                ("duration_seconds", 1e10),
                ("kind", "evil"),
                ("name", ""),
            )
        ),
        b'{"annotations":[{"path": "a", "start_line": -5, "level": "notice", "message": "m"}]}',
    ],
    ids=lambda data: ascii(data[:26]),
)
def test_details_that_cannot_be_read_are_left_out_of_a_finish(
    run: RunFolder, damage: bytes
) -> None:
    reports.write(run, 1, REPORT)
    run.details_file(1).write_bytes(damage)

    assert reports.read(run, 1) == (
        Report(output=REPORT.output),
        "its outputs, step summary, annotations and spans",
    )


def test_no_more_spans_are_read_than_are_reported(run: RunFolder) -> None:
    reports.write(run, 1, REPORT)
    run.details_file(1).write_text(json.dumps({"spans": [SPAN] * 80_000}))

    report, problem = reports.read(run, 1)

    assert (len(report.spans), problem) == (MOST_SPANS, "")


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda file: file.write_bytes(b"n\xc3\xa9\xff"), Head(text="né\ufffd")),
        (Path.exists, Head()),
        (os.mkfifo, Head(problem="it isn't a regular file")),
        (lambda file: file.mkdir(), Head(problem="it isn't a regular file")),
        (
            lambda file: file.symlink_to("/etc/passwd"),
            Head(problem="it can't be read (Too many levels of symbolic links)"),
        ),
        (
            lambda file: file.write_bytes(b"x" * LARGEST_TEXT),
            Head(text="x" * LARGEST_TEXT),
        ),
        (
            lambda file: file.write_bytes(b"x" * LARGEST_TEXT + b"y"),
            Head(text="x" * LARGEST_TEXT, cut=True),
        ),
    ],
    ids=["not-utf-8", "missing", "pipe", "folder", "link", "largest", "larger"],
)
def test_the_beginning_of_whatever_is_there_is_read(
    tmp_path: Path, make: Callable[[Path], None], head: Head
) -> None:
    make(tmp_path / "summary.md")

    assert read_head(tmp_path / "summary.md") == head


def test_a_report_keeps_the_contract_of_a_finish() -> None:
    fields = report_to_wire(REPORT, SCRUB)

    check("finish-request", {**IDENTITY, "result_status": "failed", **fields})
    assert fields == {
        "result_output": "it is done\n",
        "result_step_summary": "# Done\n\nin 3 \N{HOURGLASS}\n",
        "result_outputs": {"version": "1.2", "empty": "", "two": "a\nb"},
        "result_annotations": [
            {
                "path": "a.py",
                "start_line": 1,
                "end_line": 2,
                "level": "failure",
                "title": "T",
                "message": "m",
            },
            {"path": "b.py", "start_line": 3, "level": "notice", "message": "n"},
        ],
        "result_spans": [
            {
                "kind": "phase",
                "name": "build",
                "start_seconds": 0,
                "duration_seconds": 2.5,
            },
            {
                "kind": "span",
                "name": "cc",
                "start_seconds": 1,
                "duration_seconds": 1,
                "ok": False,
            },
        ],
    }


def test_every_text_of_a_report_is_scrubbed_on_its_way_out() -> None:
    fields = report_to_wire(
        Report(
            output=SECRET,
            step_summary=SECRET,
            outputs={"a": SECRET, SECRET: "b"},
            annotations=(
                Annotation(
                    path=SECRET,
                    start_line=1,
                    level="notice",
                    title=SECRET,
                    message=SECRET,
                ),
            ),
            spans=(
                RunSpan(kind="span", name=SECRET, start_seconds=0, duration_seconds=1),
            ),
        ),
        SCRUB,
    )

    assert SECRET not in str(fields)
    assert fields["result_outputs"] == {"a": "[redacted]"}
