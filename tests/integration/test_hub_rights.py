"""Each act at the hub needs one scope, whichever way it is done."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.hub import Hub, hub
from support.machine import Machine, held_poll, row

PUSHED = {
    "dag_name": "ci",
    "repository_name": "o/r",
    "pull_request_number": 7,
    "event_name": "pull_request",
}


async def token(server: Hub, *scopes: str) -> dict[str, str]:
    """Return the header of a new token."""
    body = {"name": "-".join(scopes), "scopes": list(scopes)}
    reply = await server.http.post("/api/v1/tokens", json=body)
    return {"authorization": f"Bearer {reply.json()['token']}"}


async def submit(
    server: Hub, headers: dict[str, str], job: dict[str, Any]
) -> httpx.Response:
    return await server.http.post("/api/v1/jobs", json=job, headers=headers)


CANCELS: list[dict[str, Any]] = [
    {"command": "cancel", "dag_run_id": "victim"},
    {"command": "CanCel", "dag_run_id": "run-of-victim"},
    {**PUSHED, "command": "cancel"},
    {"command": "cancel", "dag_run_id": "nothing-of-that-name"},
]


@pytest.mark.parametrize("job", CANCELS)
@pytest.mark.parametrize("scopes", [("submit",), ("submit", "read")])
async def test_a_token_for_submit_ends_no_job_by_a_cancel_job(
    server: Hub, job: dict[str, Any], scopes: tuple[str, ...]
) -> None:
    headers = await token(server, *scopes)
    await server.submit({"id": "victim", **PUSHED})
    held = await Machine(http=server.http).pull()
    await held.accept(run_id="run-of-victim")
    await server.submit({"id": "waits", **PUSHED})

    reply = await submit(server, headers, {"id": "c", **job})
    beat = await held.beat()

    assert reply.status_code == 403
    assert "admin" in reply.json()["message"]
    assert beat.json()["cancel_requested"] is False
    assert (await row(server, "waits"))["state"] == "queued"
    assert (await server.http.get("/api/v1/jobs/c")).status_code == 404


async def test_an_owner_ends_a_job_by_a_cancel_job(server: Hub) -> None:
    await server.submit({"id": "victim", **PUSHED})
    headers = await token(server, "admin")

    reply = await submit(server, headers, {"id": "c", **CANCELS[0]})

    assert reply.status_code == 201
    assert (await row(server, "victim"))["state"] == "aborted"


async def test_a_token_for_submit_supersedes_no_job(server: Hub) -> None:
    headers = await token(server, "submit")
    await server.submit({"id": "victim", **PUSHED, "sha": "1" * 40})

    defaults: list[dict[str, Any]] = [{}, {"supersede": None}, {"supersede": False}]
    for number, given in enumerate(defaults):
        job = {"id": f"new-{number}", **PUSHED, "sha": "2" * 40, **given}
        assert (await submit(server, headers, job)).status_code == 201
    named = {"id": "named", **PUSHED, "sha": "2" * 40, "supersede": True}
    reply = await submit(server, headers, named)

    assert reply.status_code == 403
    assert (await row(server, "victim"))["state"] == "queued"


async def machine_call(
    server: Hub, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer to an owner's call about a machine."""
    reply = await server.http.post(f"/api/v1/{path}", json=body)
    assert reply.is_success, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


async def activate(server: Hub, given: dict[str, Any]) -> httpx.Response:
    key = given["enrolment_key"]
    body = {"key": key, "server_id": "s-1", "machine_name": "build-1"}
    return await server.http.post("/api/v1/licenses/activate", json=body)


async def activated(server: Hub, given: dict[str, Any]) -> Machine:
    """Return a machine with the secret that its enrolment key was exchanged for."""
    reply = await activate(server, given)
    assert reply.is_success, reply.text
    secret = reply.json()["heartbeat_secret"]
    return Machine(http=server.http, name="s-1", secret=secret)


@pytest.mark.parametrize("fixed", [True, False])
async def test_a_held_poll_ends_with_its_secret(server: Hub, *, fixed: bool) -> None:
    body = {"name": "build-1", "fixed_secret": fixed}
    given = await machine_call(server, "machines", body)
    if fixed:
        old = Machine(http=server.http, name="build-1", secret=given["secret"])
    else:
        old = await activated(server, given)

    async with held_poll(old) as poll:
        again = await machine_call(server, "machines/build-1/rotate")
        if not fixed:
            await activated(server, again)
        await server.submit({"id": "j", **PUSHED})

    assert poll.reply.status_code == 401
    assert poll.reply.json() == (await old.ask()).json()
    assert (await row(server, "j"))["state"] == "queued"


async def test_a_held_poll_goes_on_until_the_new_key_is_activated(server: Hub) -> None:
    given = await machine_call(server, "machines", {"name": "build-1"})
    machine = await activated(server, given)

    async with held_poll(machine) as poll:
        await machine_call(server, "machines/build-1/rotate")
        await server.submit({"id": "j", **PUSHED})

    assert poll.reply.json()["id"] == "j"


async def test_a_held_poll_of_a_revoked_machine_is_told_so(server: Hub) -> None:
    given = await machine_call(server, "machines", {"name": "build-1"})
    machine = await activated(server, given)

    async with held_poll(machine) as poll:
        await machine_call(server, "machines/build-1/revoke")
        await server.submit({"id": "j", **PUSHED})

    assert poll.reply.status_code == 410


async def test_a_key_is_used_up_by_the_first_pull_after_its_activation(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path) as server:
        given = await machine_call(server, "machines", {"name": "build-1"})
        for _ in range(3):
            # The answer may have been lost.
            await activated(server, given)
            machine = await activated(server, given)
            assert (await machine.ask()).status_code == 204

            assert (await activate(server, given)).status_code == 401

            assert (await machine.ask()).status_code == 204
            server.time.wall_set_by_s -= 3600
            given = await machine_call(server, "machines/build-1/rotate")
