"""The hub's calls, one by one, against a real hub."""

import json

import pytest

from dispatchd.protocol.contracts import check
from support.clock import advance, within
from support.hub import Hub
from support.machine import JOBS, PATH, Machine, held_poll, refuses, row


async def test_a_job_goes_from_submit_to_finish(server: Hub, machine: Machine) -> None:
    await server.submit(
        {"id": "j", "dag_name": "ci", "repository_id": 7, "x-own": [1]}, '{"a":1.50}'
    )

    held = await machine.pull()
    accepted = await held.accept("run-1")
    beaten = await held.beat("running")
    finished = await held.finish("failed", "Exit code 1.")

    assert held.job["x-own"] == [1]
    assert held.job["claimed_by"] == "m1"
    assert held.job["lease_seconds"] == 60
    assert set(held.job["extensions"]) == {
        "heartbeat",
        "release",
        "resolve",
        "log",
        "artifacts",
        "capabilities",
        "contract-header",
    }
    assert (accepted.status_code, finished.status_code) == (204, 204)
    check("heartbeat-reply", beaten.json())
    assert beaten.json() == {"lease_seconds": 60, "cancel_requested": False}
    found = await row(server, "j")
    assert found["state"] == "failed"
    assert (found["machine"], found["run_id"]) == ("m1", "run-1")
    assert found["phase"] == "running"
    assert found["result_status"] == "failed"
    assert found["result_summary"] == "Exit code 1."
    assert (found["deliveries"], found["accepts"], found["finishes"]) == (1, 1, 1)
    times = ("created_at", "claimed_at", "accepted_at", "finished_at")
    assert 0 < found[times[0]] <= found[times[1]] <= found[times[2]] <= found[times[3]]
    assert held.token not in json.dumps(found)
    assert "payload" not in found


async def test_accept_and_finish_may_be_repeated_but_not_changed(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()

    assert [(await held.accept()).status_code for _ in range(2)] == [204, 204]
    refuses(await held.accept("another-run"), 409)
    assert [(await held.finish()).status_code for _ in range(2)] == [204, 204]
    assert "succeeded" in refuses(await held.finish("failed"), 409)

    for closed in (held.accept(), held.beat(), held.release()):
        refuses(await closed, 410)
    assert (await row(server, "j"))["result_status"] == "succeeded"


async def test_a_job_can_be_finished_without_an_accept(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "nobody-has-it"})
    held = await machine.pull()

    assert (await held.finish("rejected", "No such workflow.")).status_code == 204

    assert (await row(server, "j"))["result_status"] == "rejected"


async def test_a_released_job_goes_to_the_next_machine(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    await held.accept()

    assert [(await held.release()).status_code for _ in range(2)] == [204, 204]
    refuses(await held.accept(), 409)
    again = await Machine(http=server.http, name="m2").pull()

    for stale in (held.accept(), held.finish(), held.beat(), held.release()):
        refuses(await stale, 409)
    assert again.token != held.token
    assert (await again.accept()).status_code == 204
    found = await row(server, "j")
    assert (found["machine"], found["deliveries"]) == ("m2", 2)


@pytest.mark.parametrize("state", ["claimed", "accepted"])
async def test_what_was_ended_while_it_went_back_has_ended(
    server: Hub, machine: Machine, state: str
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    if state == "accepted":
        await held.accept()
    await held.release()

    finishes = [(await held.finish("aborted")).status_code for _ in range(2)]

    assert finishes == [204, 204]
    assert (await row(server, "j"))["state"] == "aborted"
    assert (await machine.ask()).status_code == 204
    refuses(await held.release(), 410)


@pytest.mark.parametrize("call", ["accept", "finish", "heartbeat", "release"])
async def test_a_call_without_the_right_to_it_changes_nothing(
    server: Hub, machine: Machine, call: str
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    before = await row(server, "j")
    fields = {"dag_run_id": "r", "result_status": "failed", "result_summary": ""}
    fields |= {"phase": "running", "claim_token": held.token}
    others = Machine(http=server.http, name="m2")
    liars = [
        Machine(http=server.http, secret="wrong"),
        Machine(http=server.http, secret="wröng"),
        Machine(http=server.http, license_id="other"),
    ]

    for liar in liars:
        refuses(await liar.call(call, "j", **fields), 401)
        refuses(await liar.ask(), 401)
    refuses(await others.call(call, "j", **fields), 409)
    refuses(await machine.call(call, "j", **{**fields, "claim_token": "stale"}), 409)
    del fields["claim_token"]
    refuses(await machine.call(call, "j", **fields), 409)
    refuses(await machine.call(call, "unknown", **fields), 404)

    assert await row(server, "j") == before


async def test_broken_calls_of_a_machine_are_refused(
    server: Hub, machine: Machine
) -> None:
    http = server.http

    assert "$.dag_run_id" in refuses(await machine.call("accept", "j"), 422)
    refuses(await http.post(f"{PATH}/pull", content=b"<html>"), 400)
    refuses(await http.post(f"{PATH}/pull", json={}), 422)
    for field in ("license_id", "server_id", "heartbeat_secret"):
        body = {"license_id": "l", "server_id": "s", "heartbeat_secret": "h"}
        text = json.dumps({**body, field: "\ud800"})
        refuses(await http.post(f"{PATH}/pull", content=text), 422)
    refuses(await http.post(f"{PATH}/pull", content=b" " * (41 << 20)), 413)
    refuses(await http.get(f"{PATH}/pull"), 405)
    refuses(await http.post("/api/v1/nothing", json={}), 404)
    refuses(await http.get(f"{JOBS}/unknown"), 404)


async def test_any_text_can_be_an_id(server: Hub, machine: Machine) -> None:
    ids = ["a/b", "..", "pull", "a/accept", "ä ö%2F", "?x#y", "a\nb", "'--", "x" * 512]
    for job_id in ids:
        await server.submit({"id": job_id, "dag_name": "ci"})

        held = await machine.pull()
        replies = [await held.accept(), await held.beat(), await held.finish()]

        assert held.id == job_id
        assert [each.status_code for each in replies] == [204, 200, 204], job_id
        found = await row(server, job_id)
        assert (found["id"], found["state"]) == (job_id, "succeeded")


@pytest.mark.parametrize(
    "payload",
    [
        '{"z": 1.50, "b": 1E+5, "n": 12345678901234567890123, "a": 1, "a": -0.0}',
        '"\\u00e9\\/\\ud800 é\U0001f600"',
        "[ 1e999 ,\n\ttrue ]",
        "null",
        '{"big": "' + "é" * (10 * 1024 * 1024) + '"}',
    ],
    ids=["numbers", "escapes", "spaces", "null", "20 MiB"],
)
async def test_payload_and_headers_come_out_as_they_went_in(
    server: Hub, machine: Machine, payload: str
) -> None:
    headers = '{"X-B": "2",  "x-a": "1"}'
    await server.submit({"dag_name": "ci"}, payload=payload, headers=headers)

    held = await machine.pull()

    assert payload in held.text
    assert headers in held.text


async def test_a_poll_is_held_only_where_that_is_asked_for(
    server: Hub, machine: Machine
) -> None:
    with within(20):
        at_once = await machine.ask()
        async with held_poll(machine, wait="90") as held:
            # Time passes by itself, too, and much of it on a busy machine.
            await advance(70)
            await server.http.get(JOBS)
            was_held = not held.has_ended
            await advance(20)
        await server.submit({"dag_name": "ci"})
        found = await machine.ask(wait="900")

    assert was_held
    assert "preference-applied" not in at_once.headers
    assert held.reply.headers["preference-applied"] == "wait=90"
    assert found.headers["preference-applied"] == "wait=300"
    assert [r.status_code for r in (at_once, held.reply, found)] == [204, 204, 200]
