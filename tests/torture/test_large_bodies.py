"""The largest bodies that GitHub sends, all the way, on both databases."""

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import anyio
import pytest

from support.daemon import write_config
from support.daemon_process import running_daemon
from support.github_events import pull_request
from support.github_hub import CONFIG, deliveries, prepared, send
from support.hub_process import hub
from support.machine import Machine, refuses, row

MIB = 1024 * 1024
LARGEST = 25 * MIB
AT_ONCE = 4

pytestmark = [pytest.mark.torture(least_s=20), pytest.mark.timeout(600)]


def largest_event() -> str:
    """Return an event of exactly the largest size (bytes)."""
    event = pull_request()
    event["filler"] = ""
    event["filler"] = "é" * ((LARGEST - len(json.dumps(event))) // 2)
    text = json.dumps(event, ensure_ascii=False)
    return text + " " * (LARGEST - len(text.encode()))


async def test_the_largest_webhook_goes_through_and_a_larger_one_does_not(
    tmp_path: Path, new_database_url: Callable[[], str]
) -> None:
    text = largest_event()
    folder = prepared(tmp_path / "hub")
    async with hub(folder, database_url=new_database_url(), more=CONFIG) as server:
        for form in (False, True):
            own = text.replace("é", "00", 1) if form else text
            reply = await send(server, "pull_request", own, form=form)
            assert len(reply.json()["jobs"])
        refuses(await send(server, "pull_request", text + " "), 413)

        held = await Machine(http=server.http).pull()

        assert held.job["payload"] == json.loads(text)
        assert (await row(server, held.id))["state"] == "claimed"


async def test_several_of_the_largest_webhooks_at_once_are_all_taken_in(
    tmp_path: Path, new_database_url: Callable[[], str]
) -> None:
    text = largest_event()
    folder = prepared(tmp_path / "hub")
    async with hub(folder, database_url=new_database_url(), more=CONFIG) as server:

        async def deliver(number: int) -> None:
            own = text.replace("é", f"{number:02}", 1)
            reply = await send(server, "pull_request", own, f"d-{number}")
            while reply.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                # The database is busy with the others, on a machine that is busy too.
                reply = await send(server, "pull_request", own, f"d-{number}")
            assert (reply.status_code, len(reply.json()["jobs"])) == (202, 2)

        async with anyio.create_task_group() as tasks:
            for number in range(AT_ONCE):
                tasks.start_soon(deliver, number)

        kept = {each["id"] for each in await deliveries(server)}
        assert kept == {f"d-{number}" for number in range(AT_ONCE)}


async def test_the_largest_payload_reaches_its_process_and_holds_up_no_other_job(
    tmp_path: Path, new_database_url: Callable[[], str]
) -> None:
    payload = '{"big":"' + "x" * (LARGEST - 10) + '"}'
    out = tmp_path / "out"
    out.mkdir()
    async with hub(tmp_path / "hub", database_url=new_database_url()) as server:
        config = write_config(
            tmp_path / "machine",
            server.url,
            {
                "keep": [
                    "/bin/sh",
                    "-c",
                    'cp "$GITHUB_EVENT_PATH" "$OUT/$DISPATCHD_JOB_ID"',
                ]
            },
            runs="slots = 4\nqueue_ahead = 8",
            limits=f'env = {{ OUT = "{out}" }}',
        )
        async with running_daemon(config):
            async with anyio.create_task_group() as tasks:
                big = {"id": "big", "dag_name": "keep"}
                tasks.start_soon(server.submit, big, payload)
                await server.submit({"id": "small", "dag_name": "keep"})
            results = [await server.result(each) for each in ("small", "big")]

    assert [each["result_status"] for each in results] == ["succeeded"] * 2
    assert len(payload) == LARGEST
    assert (out / "big").read_text() == payload
