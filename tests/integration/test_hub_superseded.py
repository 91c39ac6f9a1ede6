"""A newer commit that comes while a machine has the older one: it goes on there, and comes back to nobody."""

from typing import Any

import pytest

from support.clock import advance
from support.hub import Hub
from support.machine import Machine, row
from support.until import in_time

PUSHED = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": "o/r",
    "pull_request_number": 7,
}


async def submit(server: Hub, job_id: str, **more: Any) -> None:
    await server.submit({"id": job_id, "sha": job_id, **PUSHED, **more})


@pytest.mark.parametrize("accepts", [True, False])
async def test_what_its_machine_hands_back_goes_to_nobody_else(
    each_server: Hub,
    accepts: bool,  # noqa: FBT001  # a column of the table
) -> None:
    server = each_server
    await submit(server, "old")
    held = await Machine(http=server.http).pull()
    if accepts:
        await held.accept()
    await submit(server, "new")
    assert (await row(server, "old"))["result_summary"] == ""

    # Also when it is repeated.
    for _ in range(2):
        assert (await held.release()).status_code == 204

    found = await row(server, "old")
    assert found["state"] == "superseded"
    assert "new" in found["result_summary"]
    other = Machine(http=server.http, name="m2")
    assert (await other.pull()).id == "new"
    assert (await other.ask()).status_code == 204


async def test_what_its_machine_is_lost_with_goes_to_nobody_else(
    each_server: Hub,
) -> None:
    server = each_server
    await submit(server, "old")
    held = await Machine(http=server.http).pull()
    await held.accept()
    await held.beat("running")
    await submit(server, "new")
    other = Machine(http=server.http, name="m2")
    await (await other.pull()).finish()

    await advance(server.lease_s + server.patience_s)

    async def is_over() -> bool:
        return bool((await row(server, "old"))["state"] == "superseded")

    await in_time(is_over)
    assert (await other.ask()).status_code == 204
    # Whoever still runs it is told so.
    assert (await held.beat("running")).json()["cancel_requested"] is True


async def test_what_a_machine_has_goes_on_to_its_own_end(each_server: Hub) -> None:
    server = each_server
    await submit(server, "old")
    held = await Machine(http=server.http).pull()
    await submit(server, "new")

    assert (await held.accept()).status_code == 204
    assert (await held.beat("running")).json()["cancel_requested"] is False
    assert (await held.finish()).status_code == 204

    assert (await row(server, "old"))["state"] == "succeeded"


@pytest.mark.parametrize(
    "other", [{"supersede": False}, {"pull_request_number": 8}, {"sha": "old"}]
)
async def test_without_a_newer_commit_it_is_queued_again(
    server: Hub, other: dict[str, Any]
) -> None:
    await submit(server, "old")
    held = await Machine(http=server.http).pull()
    await submit(server, "new", **other)

    await held.release()

    assert (await row(server, "old"))["state"] == "queued"
