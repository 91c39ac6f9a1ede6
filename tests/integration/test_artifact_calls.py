"""Calls that artifacts take, and what becomes of them: a workflow's, a result's, of retries; endpoints that refuse or lie."""

import json
from pathlib import Path
from typing import Any

import pytest

from dispatchd.protocol.uploads.artifacts import ArtifactChunk
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.until import until
from support.waits import finishes

JOB = {"id": "j", "dag_name": "it", "extensions": ["artifacts"]}
TWO = "mkdir d; echo one >d/a; echo two >d/b"
D = 'artifacts = ["d/*"]'


def keeping(kept: dict[str, bytes], request: Request) -> Answer | None:
    """Answer as an endpoint that keeps artifacts by their hash."""
    if request.call == "artifacts":
        files = request.body["files"]
        return as_json(
            {
                "files": [
                    {"offset": 0, "whole": file["sha256"] in kept} for file in files
                ]
            }
        )
    if request.call == "artifact":
        chunk = ArtifactChunk.from_wire(request.body)
        kept[chunk.file] = chunk.data
        return as_json({"offset": chunk.end, "whole": True})
    return None


def paths(hub: Endpoint) -> list[list[str]]:
    return [
        [file["path"] for file in call.body["files"]] for call in hub.calls("artifacts")
    ]


async def until_paid(daemon: DaemonHere) -> None:
    await until(lambda: not [*(daemon.state / "artifacts").iterdir()])


async def test_each_file_takes_one_call_and_a_finish_waits_for_none(
    tmp_path: Path,
) -> None:
    kept: dict[str, bytes] = {}
    is_open = False

    def script(request: Request) -> Answer | None:
        if request.call.startswith("artifact") and not is_open:
            return Answer(status=503, body=b"{}")
        return keeping(kept, request)

    async with endpoint() as hub:
        hub.script = script
        commands = {"it": ["/bin/sh", "-c", TWO]}
        async with running_daemon(
            write_config(tmp_path, hub.url, commands, limits=D)
        ) as daemon:
            hub.hand_out(JOB)
            await finishes(hub, daemon, "j")
            await daemon.until_logged("artifacts_delayed")
            is_open = True
            await daemon.until_logged("artifacts_sent")
            await until_paid(daemon)
            assert hub.complaints == []
    assert sorted(kept.values()) == [b"one\n", b"two\n"]
    assert len(hub.calls("artifact")) == 2


async def test_an_endpoint_without_the_extension_sees_nothing(tmp_path: Path) -> None:
    commands = {"it": ["/bin/sh", "-c", TWO]}
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, commands, limits=D)
        async with running_daemon(config) as daemon:
            hub.hand_out({**JOB, "extensions": ["heartbeat"]})
            await finishes(hub, daemon, "j")
            assert [*(daemon.state / "artifacts").iterdir()] == []
    assert not [call for call in hub.requests if call.call.startswith("artifact")]


@pytest.mark.parametrize(
    ("limits", "script", "expected"),
    [
        ("report_artifacts = false\n" + D, TWO, []),
        ('required_artifacts = ["d"]', TWO, [["d/a", "d/b"]]),
        (D, f"{TWO}; exit 1", [["d/a", "d/b"]]),
        (D + "\nartifacts_max_mib = 0", TWO, [[]]),
        ("", TWO, []),
    ],
)
async def test_the_owner_says_what_is_sent(
    tmp_path: Path, limits: str, script: str, expected: list[list[str]]
) -> None:
    kept: dict[str, bytes] = {}
    async with endpoint() as hub:
        hub.script = lambda request: keeping(kept, request)
        commands = {"it": ["/bin/sh", "-c", script]}
        config = write_config(tmp_path, hub.url, commands, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await finishes(hub, daemon, "j")
            await until_paid(daemon)
            copied = [
                each for each in daemon.log() if each["event"] == "artifacts_copied"
            ]
    assert bool(copied) is bool(expected)
    assert [sorted(each) for each in paths(hub)] == expected


async def test_a_result_lists_files_and_the_last_attempt_counts(tmp_path: Path) -> None:
    result = {
        "contract_version": "1",
        "status": "success",
        "summary": "Done.",
        "exit_reason": "completed",
        "artifacts": ["out/x"],
    }
    script = (
        "mkdir -p out; echo $DISPATCHD_ATTEMPT >out/x; echo >>n; "
        f"[ $(wc -l <n) = 1 ] && exit 2; echo '{json.dumps(result)}' >\"$5\"; exit 0"
    )
    kept: dict[str, bytes] = {}
    async with endpoint() as hub:
        hub.script = lambda request: keeping(kept, request)
        limits = 'contract = "headless"\nmax_retries = 1'
        commands = {"it": ["/bin/sh", "-c", script, "sh"]}
        config = write_config(tmp_path, hub.url, commands, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            [finish] = await finishes(hub, daemon, "j")
            await until_paid(daemon)
    assert finish["result_status"] == "succeeded", finish
    assert paths(hub) == [["out/x"]]
    assert [call.body["attempt"] for call in hub.calls("artifacts")] == [2]


REFUSED: dict[str, Any] = {"offset": 0, "refused": "it is too large"}


@pytest.mark.parametrize(
    ("answers", "event", "chunks"),
    [
        ({"artifacts": as_json({"files": [REFUSED, REFUSED]})}, "artifacts_refused", 0),
        ({"artifacts": as_json({"message": "gone"}, 404)}, "artifacts_refused", 0),
        ({"artifact": as_json({"message": "large"}, 413)}, "artifacts_refused", 1),
        ({"artifact": as_json({"offset": 0})}, "artifacts_not_sent", 8),
        ({"artifact": as_json({"offset": 1 << 40})}, "artifacts_not_sent", 8),
        ({"artifact": as_json({"offset": 1 << 63})}, "artifacts_not_sent", 8),
        ({"artifact": as_json({"offset": 10**400})}, "artifacts_not_sent", 8),
        (
            {
                "artifacts": as_json({"files": [{"offset": 1 << 63}] * 2}),
                "artifact": as_json({"offset": 10**400}),
            },
            "artifacts_not_sent",
            8,
        ),
    ],
)
async def test_an_endpoint_that_refuses_or_never_has_more_is_given_up(
    tmp_path: Path, answers: dict[str, Answer], event: str, chunks: int
) -> None:
    def script(request: Request) -> Answer | None:
        return answers.get(request.call) or keeping({}, request)

    async with endpoint() as hub:
        hub.script = script
        commands = {"it": ["/bin/sh", "-c", TWO]}
        config = write_config(tmp_path, hub.url, commands, limits=D)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await finishes(hub, daemon, "j")
            await daemon.until_logged(event)
            await until_paid(daemon)
            events = [line["event"] for line in daemon.log()]
            said = [each for each in events if each == event]
    assert len(hub.calls("artifact")) == chunks
    assert len(said) == (2 if event == "artifacts_not_sent" else 1)
    assert "bug_contained" not in events


async def test_an_answer_about_other_files_is_none(tmp_path: Path) -> None:
    kept: dict[str, bytes] = {}
    async with endpoint() as hub:

        def script(request: Request) -> Answer | None:
            if request.call == "artifacts" and len(hub.calls("artifacts")) == 1:
                return as_json({"files": [{"offset": 0}]})
            return keeping(kept, request)

        hub.script = script
        commands = {"it": ["/bin/sh", "-c", TWO]}
        async with running_daemon(
            write_config(tmp_path, hub.url, commands, limits=D)
        ) as daemon:
            hub.hand_out(JOB)
            await finishes(hub, daemon, "j")
            line = await daemon.until_logged("artifacts_delayed")
            await until_paid(daemon)
    assert "another number of files" in line["error"]
    assert len(kept) == 2


async def test_what_cannot_be_sent_for_a_day_is_given_up_also_after_a_restart(
    tmp_path: Path,
) -> None:
    def script(request: Request) -> Answer | None:
        is_ours = request.call.startswith("artifact")
        return Answer(status=503, body=b"{}") if is_ours else None

    async with endpoint() as hub:
        hub.script = script
        commands = {"it": ["/bin/sh", "-c", TWO]}
        config = write_config(tmp_path, hub.url, commands, limits=D)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await finishes(hub, daemon, "j")
            await daemon.until_logged("artifacts_delayed")
            await daemon.stop()
            assert [*(daemon.state / "artifacts").iterdir()]
            daemon.start()
            count = len(hub.calls("artifacts"))
            await hub.until(lambda it: len(it.calls("artifacts")) > count)
            for _ in range(25):
                await advance(3600)
            line = await daemon.until_logged("artifacts_not_sent")
            await until_paid(daemon)
    assert line["job_id"] == "j"


async def test_a_folder_in_trouble_ends_no_job_badly(tmp_path: Path) -> None:
    async with endpoint() as hub:
        commands = {"it": ["/bin/sh", "-c", TWO]}
        config = write_config(tmp_path, hub.url, commands, limits=D)
        async with running_daemon(config) as daemon:
            (daemon.state / "artifacts").rmdir()
            (daemon.state / "artifacts").write_text("no folder")
            for job_id in ("j", "k"):
                hub.hand_out({**JOB, "id": job_id})
                [finish] = await finishes(hub, daemon, job_id)
                assert finish["result_status"] == "succeeded"
            events = [line["event"] for line in daemon.log()]
    assert events.count("artifacts_not_copied") == 2
    assert "bug_contained" not in events
