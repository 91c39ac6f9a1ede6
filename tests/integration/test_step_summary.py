"""What a run writes to be reported: outputs, step summary, annotations; whatever it makes of their files."""

import json
from pathlib import Path
from typing import Any

import pytest

from dispatchd.redaction.redactor import MARK
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Request, as_json, endpoint
from support.until import until

VALUE = "correct-horse-battery-staple"
WRITES = """
echo "version=1.2" >>"$GITHUB_OUTPUT"
printf 'notes<<E\\none\\ntwo\\nE\\n' >>"$DISPATCHD_OUTPUT"
echo "# Done" >"$GITHUB_STEP_SUMMARY"
echo "in time" >>"$DISPATCHD_SUMMARY"
echo printed
"""
TOLD = {
    "result_outputs": {"version": "1.2", "notes": "one\ntwo"},
    "result_step_summary": "# Done\nin time\n",
}
RESULT = {
    "contract_version": "1",
    "status": "failure",
    "summary": "One test fails.",
    "exit_reason": "tests-failed",
}
RAN = "ran\n"


def configure(folder: Path, url: str, script: str, options: str = "") -> Path:
    (folder / "key").write_text(VALUE)
    file = write_config(
        folder,
        url,
        {"it": ["/bin/sh", "-c", script]},
        limits=options,
        runs="retry_wait_s = 0.1",
    )
    file.write_text(file.read_text() + '\n[secrets.key]\nfile = "key"\n')
    return file


def details_of(finish: dict[str, Any]) -> dict[str, Any]:
    """Return what a finish carries of a run's own texts, but for its output."""
    names = ("result_step_summary", "result_outputs", "result_annotations")
    return {name: finish[name] for name in names if name in finish}


async def finish_of(
    tmp_path: Path, script: str, options: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Run a job; return its finish, and why anything is missing from that."""
    folder = tmp_path / "machine"
    folder.mkdir()
    async with endpoint() as hub:
        config = configure(folder, hub.url, script, options)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j")
    return finish, reasons(daemon)


def reasons(daemon: DaemonHere) -> list[str]:
    lines = [line for line in daemon.log() if line.get("event") == "left_out_of_report"]
    # Said once.
    assert len(lines) <= 1
    return lines[0]["reasons"] if lines else []


async def test_a_long_annotation_shows_no_part_of_a_secret(tmp_path: Path) -> None:
    """Where the line is read no further, a secret may be cut in two."""
    script = f"""
for shift in 1 4 7 10 13 16 19 22 25 28 31 34 37 40; do
  printf '::error file=a.py,title=%s::%s' "$(printf '%200s' x)" "$(printf "%$((3850 + shift))s" x)"
  for i in 1 2 3 4 5 6 7 8 9; do printf '%s, ' '{VALUE}'; done; echo
done
"""
    finish, _ = await finish_of(tmp_path, script, 'secrets = { KEY = "key" }')

    assert len(finish["result_annotations"]) == 14
    parts = {VALUE[at : at + 8] for at in range(len(VALUE) - 7)}
    assert not [part for part in parts if part in json.dumps(finish)]


async def test_a_report_that_is_damaged_before_its_finish_is_said_to_be_lost(
    tmp_path: Path,
) -> None:
    details = tmp_path / "state" / "runs" / "j" / "attempt-1" / "details.report"

    def refused(request: Request) -> Answer | None:
        if request.call != "finish" or not details.exists():
            return None
        details.write_text('{"step_summary": 3, "outputs": []')
        return as_json({"message": "later"}, 503)

    async with endpoint() as hub:
        hub.script = refused
        config = configure(tmp_path, hub.url, WRITES)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("report_failed")
            hub.script = None
            (finish,) = await hub.until_finished("j")
            await daemon.until_logged("report_lost")

    lost = "its outputs, step summary, annotations and spans were lost"
    assert lost in finish["result_summary"]
    assert details_of(finish) == {}
    assert finish["result_output"] == "printed\n"


async def test_nothing_that_is_reported_has_a_mask_of_the_run(tmp_path: Path) -> None:
    script = """
echo "before it: river-of-words"
echo "::add-mask::river-of-words"
echo "version=river-of-words" >>"$GITHUB_OUTPUT"
echo "# It is river-of-words" >"$GITHUB_STEP_SUMMARY"
echo "::error file=a.py::river-of-words"
echo "ends with river-of-words"; exit 3
"""
    finish, _ = await finish_of(tmp_path, script)

    assert finish["result_status"] == "failed"
    assert finish["result_outputs"] == {"version": MARK}
    assert finish["result_step_summary"] == f"# It is {MARK}\n"
    assert f"ends with {MARK}\n" in finish["result_output"]
    assert "river-of-words" not in json.dumps(finish)


async def test_a_run_is_reported_with_its_outputs_and_its_summary(
    tmp_path: Path,
) -> None:
    finish, missing = await finish_of(tmp_path, WRITES)

    assert details_of(finish) == TOLD
    assert finish["result_output"] == "printed\n"
    assert missing == []


async def test_what_is_written_to_be_reported_is_reported_where_the_output_stays_home(
    tmp_path: Path,
) -> None:
    finish, _ = await finish_of(tmp_path, WRITES, "report_output = false")

    assert details_of(finish) == TOLD
    assert "result_output" not in finish


async def test_a_run_that_writes_nothing_is_reported_without(tmp_path: Path) -> None:
    finish, missing = await finish_of(tmp_path, "exit 0")

    assert details_of(finish) == {}
    assert missing == []


async def test_the_annotations_of_a_result_are_reported(tmp_path: Path) -> None:
    annotation = {
        "path": "app.py",
        "start_line": 3,
        "level": "warning",
        "message": "x" * 5000,
        "of_a_newer_version": 1,
    }
    result = {**RESULT, "annotations": [annotation] * 201}
    (tmp_path / "result").write_text(json.dumps(result))

    finish, _ = await finish_of(
        tmp_path,
        f'cp {tmp_path}/result "$DISPATCHD_RESULT"; exit 1',
        'contract = "headless"\narguments = []',
    )

    assert (
        finish["result_annotations"]
        == [
            {
                "path": "app.py",
                "start_line": 3,
                "level": "warning",
                "message": "x" * 3999 + "…",
            }
        ]
        * 200
    )


@pytest.mark.parametrize("report_log", ["full", "tail", "never"])
async def test_log_commands_are_annotations_where_the_output_may_be_reported(
    tmp_path: Path, report_log: str
) -> None:
    script = f'echo "::error file=$PWD/app.py,line=3,title=Key::it is {VALUE}"'

    finish, _ = await finish_of(
        tmp_path,
        script,
        f'report_log = "{report_log}"\nsecrets = {{ KEY = "key" }}',
    )

    annotation = {
        "path": "app.py",
        "start_line": 3,
        "level": "failure",
        "title": "Key",
        "message": "it is [redacted]",
    }
    expected = [] if report_log == "never" else [annotation]
    assert finish.get("result_annotations", []) == expected


async def test_half_of_a_surrogate_pair_does_not_keep_a_job_unreported(
    tmp_path: Path,
) -> None:
    annotation = {"path": "\ud800", "start_line": 1, "level": "notice", "message": "m"}
    result = {**RESULT, "summary": "It is \udfff.", "annotations": [annotation]}
    (tmp_path / "result").write_text(json.dumps(result))

    finish, _ = await finish_of(
        tmp_path,
        f'cp {tmp_path}/result "$DISPATCHD_RESULT"; exit 1',
        'contract = "headless"\narguments = []',
    )

    assert json.dumps(finish, ensure_ascii=False).encode()
    assert finish["result_annotations"] == [{**annotation, "path": "?"}]


async def test_only_the_newest_attempt_is_reported(tmp_path: Path) -> None:
    script = (
        'echo "of=$DISPATCHD_ATTEMPT" >>"$GITHUB_OUTPUT"; '
        '[ "$DISPATCHD_ATTEMPT" = 2 ] || echo first >"$GITHUB_STEP_SUMMARY"; '
        "kill -9 $$"
    )

    finish, _ = await finish_of(tmp_path, script, "max_retries = 1")

    assert details_of(finish) == {"result_outputs": {"of": "2"}}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('mkdir "$F"', "it isn't a regular file"),
        ('mkfifo "$F"', "it isn't a regular file"),
        ('ln -s /etc/passwd "$F"', "it can't be read (Too many levels"),
        ('head -c 2097152 /dev/zero | tr "\\\\0" x >"$F"', "larger than 1 MiB"),
        ("true", ""),
    ],
    ids=["folder", "pipe", "link", "2-MiB", "gone"],
)
async def test_whatever_a_run_makes_of_its_files_it_ends_and_is_reported(
    tmp_path: Path, script: str, reason: str
) -> None:
    both = "".join(
        f'F="${name}"; rm "$F"; {script}; '
        for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
    )

    finish, missing = await finish_of(tmp_path, both + "echo ran")

    assert (finish["result_status"], finish["result_output"]) == ("succeeded", RAN)
    assert details_of(finish) == {}
    assert len(missing) >= 2 * bool(reason)
    assert all(reason in each for each in missing if "summary" in each)


async def test_what_is_not_utf_8_is_reported_with_marks_in_its_place(
    tmp_path: Path,
) -> None:
    script = (
        "printf 'a\\377b' >\"$GITHUB_STEP_SUMMARY\"; "
        "printf 'x=\\377\\376\\n' >\"$GITHUB_OUTPUT\""
    )

    finish, _ = await finish_of(tmp_path, script)

    assert details_of(finish) == {
        "result_step_summary": "a\ufffdb",
        "result_outputs": {"x": "\ufffd\ufffd"},
    }


async def test_what_is_too_much_is_cut_or_left_out_and_said(tmp_path: Path) -> None:
    script = """
    { echo '```'; head -c 300000 /dev/zero | tr '\\0' x; } >"$GITHUB_STEP_SUMMARY"
    for i in $(seq 150); do echo "n$i=$i"; done >"$GITHUB_OUTPUT"
    echo "no output" >>"$GITHUB_OUTPUT"
    """

    finish, missing = await finish_of(tmp_path, script)

    summary = finish["result_step_summary"]
    assert len(summary.encode()) <= 65_535
    assert "x\n```\n\n*[... " in summary
    assert summary.endswith("bytes shown; the rest was cut ...]*")
    assert list(finish["result_outputs"]) == [f"n{i}" for i in range(1, 101)]
    assert "line 151" in missing[0]
    assert "n101" in missing[1]


async def test_secrets_are_taken_out_of_all_of_it(tmp_path: Path) -> None:
    result = {
        **RESULT,
        "annotations": [
            {
                "path": "KEY",
                "start_line": 1,
                "level": "notice",
                "title": "KEY",
                "message": "It is KEY.",
            }
        ],
    }
    (tmp_path / "result").write_text(json.dumps(result))
    script = f"""
    sed "s/KEY/$KEY/g" {tmp_path}/result >"$DISPATCHD_RESULT"
    echo "key is $KEY, or $(printf %s "$KEY" | base64)" >"$GITHUB_STEP_SUMMARY"
    echo "key=$KEY" >"$GITHUB_OUTPUT"
    """
    options = 'contract = "headless"\narguments = []\nsecrets = { KEY = "key" }'

    finish, _ = await finish_of(tmp_path, script, options)

    assert details_of(finish) == {
        "result_step_summary": "key is [redacted], or [redacted]==\n",
        "result_outputs": {"key": "[redacted]"},
        "result_annotations": [
            {
                "path": "[redacted]",
                "start_line": 1,
                "level": "notice",
                "title": "[redacted]",
                "message": "It is [redacted].",
            }
        ],
    }
    kept = tmp_path / "machine/state/runs/j/attempt-1/details.report"
    assert VALUE not in kept.read_text()


async def test_a_report_survives_a_kill_between_conclusion_and_finish(
    tmp_path: Path,
) -> None:
    def down(request: Request) -> Answer | None:
        return as_json({}, 503) if request.call == "finish" else None

    folder = tmp_path / "machine"
    folder.mkdir()
    async with endpoint() as hub:
        hub.script = down
        config = configure(folder, hub.url, WRITES, 'secrets = { KEY = "key" }')
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until(lambda it: it.calls("finish") != [])
            await daemon.crash()
            hub.script = None
            daemon.start()
            (finish,) = await hub.until_finished("j")
            await daemon.until_logged("daemon_ready")
        first = hub.calls("finish")[0].body

    assert details_of(finish) == details_of(first) == TOLD
    assert finish["result_output"] == "printed\n"


async def test_words_of_a_run_that_ended_unwatched_are_withheld(
    tmp_path: Path,
) -> None:
    folder, gate = tmp_path / "machine", tmp_path / "gate"
    folder.mkdir()
    script = f'read -r _ <{gate}; echo "key=$KEY" | tee "$GITHUB_OUTPUT" "$GITHUB_STEP_SUMMARY"'
    async with endpoint() as hub:
        config = configure(
            folder, hub.url, f"mkfifo {gate}; {script}", 'secrets = { KEY = "key" }'
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await daemon.crash()
            (folder / "key").write_text("another-value-by-now")
            await until(gate.is_fifo)
            gate.write_text("go\n")
            await until((daemon.state / "runs/j/attempt-1/exit").exists)
            daemon.start()
            (finish,) = await hub.until_finished("j")

    assert list(details_of(finish)) == ["result_step_summary"]
    assert "withheld" in finish["result_step_summary"]
    assert VALUE not in str(finish)


async def test_a_finish_that_is_too_large_is_repeated_at_once_with_the_verdict_alone(
    tmp_path: Path,
) -> None:
    def small(request: Request) -> Answer | None:
        large = request.call == "finish" and "result_step_summary" in request.body
        return as_json({"message": "too large"}, 413) if large else None

    folder = tmp_path / "machine"
    folder.mkdir()
    async with endpoint() as hub:
        hub.script = small
        async with running_daemon(configure(folder, hub.url, WRITES)) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j")
            await daemon.until_logged("finish_too_large", job_id="j")
        calls = hub.calls("finish")

    assert len(calls) == 2
    assert finish["result_status"] == "succeeded"
    assert details_of(finish) == {}


EVENTS = f"""
now() {{ date -u +%Y-%m-%dT%H:%M:%S.%NZ; }}
start=$(now)
cat >>"$DISPATCHD_EVENTS" <<END
{{"type":"phase","name":"build with {VALUE}","at":"$start"}}
{{"type":"span","name":"compile","started_at":"$start","ended_at":"$(now)","ok":false}}
{{"type":"phase","name":"test","at":"$(now)"}}
{{"type":"phase","name":"at a time that nobody knows"}}
END
"""


async def test_phases_and_spans_are_reported_without_secrets(tmp_path: Path) -> None:
    finish, left_out = await finish_of(tmp_path, EVENTS, 'secrets = { KEY = "key" }')

    spans = finish["result_spans"]
    assert [(each["kind"], each["name"], each.get("ok", True)) for each in spans] == [
        ("phase", f"build with {MARK}", True),
        ("span", "compile", False),
    ]
    start, after = (each["start_seconds"] for each in spans)
    assert 0 <= start <= after
    assert left_out == []
