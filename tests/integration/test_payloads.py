"""Every real payload goes through hub, daemon, process and back, unchanged."""

import json
from pathlib import Path

import anyio
import pytest

from dispatchd.agent.endpoint.wire import job_to_wire
from dispatchd.protocol.github_event import job_from_event
from support.daemon import running_daemon, write_config
from support.fixtures import Example, examples
from support.hub import Hub, hub

KEEP = [
    "/bin/sh",
    "-c",
    'cp "$GITHUB_EVENT_PATH" "$OUT/$DISPATCHD_JOB_ID.json"; env >"$OUT/$DISPATCHD_JOB_ID.env"',
]


def keeping(tmp_path: Path, url: str) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    return write_config(
        tmp_path / "machine",
        url,
        {"keep": KEEP},
        runs="slots = 4\nqueue_ahead = 8",
        limits=f'env = {{ OUT = "{out}" }}',
    )


async def test_a_real_payload_of_each_event_reaches_its_process_unchanged(
    tmp_path: Path,
) -> None:
    """The longest of each; all of them are in the next test, and in the unit tests of parameters."""
    longest = {
        each.event: each for each in sorted(examples(), key=lambda it: len(it.text))
    }
    assert len(longest) == 30

    await go_there_and_back(tmp_path, [*longest.values()])


@pytest.mark.torture
async def test_every_real_payload_reaches_its_process_unchanged(tmp_path: Path) -> None:
    found = examples()
    assert len(found) == 152

    await go_there_and_back(tmp_path, found)


async def go_there_and_back(tmp_path: Path, found: list[Example]) -> None:
    async with (
        hub(tmp_path / "hub") as server,
        running_daemon(keeping(tmp_path, server.url)),
    ):
        for example in found:
            await submit(server, example)
        results = [await server.result(example.name) for example in found]

    assert {each["result_status"] for each in results} == {"succeeded"}
    for example in found:
        seen = (tmp_path / "out" / f"{example.name}.json").read_text(encoding="utf-8")
        assert seen == example.text.strip()
        environment = (tmp_path / "out" / f"{example.name}.env").read_text()
        assert f"GITHUB_EVENT_NAME={example.event}\n" in environment


async def submit(server: Hub, example: Example) -> None:
    job = job_from_event(example.name, "keep", example.event, json.loads(example.text))
    # Several are for newer commits of one pull request.
    document = {**job_to_wire(job), "supersede": False}
    await server.submit(document, payload=example.text)


@pytest.mark.parametrize(
    "payload",
    [
        '{"big":"' + "x" * (2 * 1024 * 1024) + '"}',
        pytest.param(
            '{"big":"' + "x" * (20 * 1024 * 1024) + '"}', marks=pytest.mark.torture
        ),
        '{"a": 1.50, "b": 1e5, "c": 12345678901234567890123, "d": "\\u00e9\\ud83d\\ude00", "a": 2}',
        '[ null , true,\n"é\U0001f600" ]',
        "null",
    ],
    ids=["2 MiB", "20 MiB", "odd numbers", "spaces", "null"],
)
async def test_a_payload_keeps_its_exact_text(tmp_path: Path, payload: str) -> None:
    async with (
        hub(tmp_path / "hub") as server,
        running_daemon(keeping(tmp_path, server.url)),
    ):
        await server.submit({"id": "odd", "dag_name": "keep"}, payload=payload)
        result = await server.result("odd")

    assert result["result_status"] == "succeeded"
    assert (tmp_path / "out" / "odd.json").read_text(encoding="utf-8") == payload


async def test_a_big_payload_does_not_hold_up_other_jobs(tmp_path: Path) -> None:
    big = json.dumps(["x" * 100] * 200_000)

    async with (
        hub(tmp_path / "hub") as server,
        running_daemon(keeping(tmp_path, server.url)),
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.submit, {"id": "big", "dag_name": "keep"}, big)
            await server.submit({"id": "small", "dag_name": "keep"})
        results = [await server.result(each) for each in ("small", "big")]

    assert [each["result_status"] for each in results] == ["succeeded"] * 2
