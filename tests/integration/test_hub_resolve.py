"""Decisions about parked jobs at the hub: over its API and commands, to a machine that is played by hand."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatchd.protocol.contracts import check
from dispatchd.protocol.extensions import OF_MACHINES, RESOLVE
from support.cli import Done, command
from support.clock import advance
from support.hub import Hub, HubHere, hub
from support.machine import JOBS, Held, Machine, held_poll, refuses, row
from support.until import until

CI = {"dag_name": "ci"}
STAY = {"reason": "Which?", "parked": "stay-1"}


async def parked(server: Hub, machine: Machine) -> Held:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    await held.beat("needs_attention", **STAY)
    return held


async def decide(server: Hub, choice: str = "retry", **more: Any) -> httpx.Response:
    body = {"as": choice, **more}
    return await server.http.post(f"{JOBS}/j/resolve", json=body)


async def told(held: Held, **fields: Any) -> Any:
    reply = await held.beat("needs_attention", **{**STAY, **fields})
    assert reply.status_code == 200, reply.text
    check("heartbeat-reply", reply.json())
    return reply.json().get("resolve")


async def say(server: Hub, *words: str) -> Done:
    return await command("hub", *words, cwd=server.folder)


async def test_a_decision_goes_to_the_machine_until_the_job_has_moved(
    each_server: Hub,
) -> None:
    server = each_server
    held = await parked(server, Machine(http=server.http))
    before = await told(held)

    reply = await decide(server, "retry", note="More disk\nnow.")

    assert (before, reply.status_code) == (None, 200)
    check("hub-job", reply.json())
    decision = reply.json()["decision"]
    assert (decision["as"], decision["note"]) == ("retry", "More disk now.")
    assert decision["state"] == "waiting"
    expected = {
        "parked": "stay-1",
        "as": "retry",
        "note": "More disk now.",
        "by": decision["by"],
    }
    # An answer may be lost.
    assert [await told(held) for _ in range(2)] == [expected, expected]
    await held.accept()
    await held.beat("running")
    assert (await row(server, "j"))["decision"]["state"] == "sent"
    assert await told(held, parked="stay-2") is None


async def test_no_text_of_a_decision_makes_a_heartbeat_fail(
    each_server: Hub,
) -> None:
    held = await parked(each_server, Machine(http=each_server.http))
    note = '{"as": "fail", "note": "nothing \\u0000 and \u202e"}'

    reply = await each_server.http.post(f"{JOBS}/j/resolve", content=note)

    assert reply.status_code == 200, reply.text
    assert (await told(held))["note"].startswith("nothing ")
    assert (await row(each_server, "j"))["decision"]["as"] == "fail"


async def test_a_decision_ends_a_held_poll_of_the_machine(
    each_server: Hub,
) -> None:
    machine = Machine(http=each_server.http)
    await parked(each_server, machine)

    async with held_poll(machine) as poll:
        await decide(each_server)
        await until(lambda: poll.has_ended)

    assert poll.reply.status_code == 204


async def test_a_decision_outlasts_a_restart_of_the_hub(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as server:
        held = await parked(server, Machine(http=server.http))
        await decide(server, "fail", note="It is broken.")
    async with hub(tmp_path / "hub") as server:
        machine = Machine(http=server.http)
        again = Held(machine=machine, job=held.job, text=held.text)

        found = await told(again)

    assert (found["as"], found["note"]) == ("fail", "It is broken.")


async def test_a_machine_that_decided_itself_meanwhile_gets_nothing(
    server: Hub, machine: Machine
) -> None:
    held = await parked(server, machine)
    await decide(server, "succeed")

    assert "resolve" not in (await held.beat("running")).json()
    assert "resolve" not in (await held.beat("finishing")).json()
    assert (await held.finish("failed")).status_code == 204
    job = await row(server, "j")
    assert (job["state"], job["decision"]["state"]) == ("failed", "overtaken")
    refuses(await decide(server), 410)


async def test_a_machine_that_is_not_heard_of_any_more_keeps_no_decided_end_open(
    server: HubHere, machine: Machine
) -> None:
    held = await parked(server, machine)
    await decide(server, "succeed", note="The files are there.")

    await advance(server.lease_s + server.patience_s + 1)
    await until(lambda: server.has_ended("j"))

    job = await row(server, "j")
    assert job["state"] == "succeeded"
    assert "The files are there." in job["result_summary"]
    other = Machine(http=server.http, name="m2")
    assert (await other.ask()).status_code == 204
    refuses(await held.beat("needs_attention", **STAY), 410)
    refuses(await held.finish("failed"), 410)


async def test_a_machine_of_an_earlier_release_is_named_with_the_command(
    server: Hub,
) -> None:
    earlier = tuple(each for each in OF_MACHINES if each != RESOLVE)
    machine = Machine(http=server.http, extensions=earlier)
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    await held.beat("needs_attention", reason="Which?")

    done = await say(server, "resolve", "j", "--fail")

    assert RESOLVE not in held.job["extensions"]
    assert done.returncode == 64
    assert done.stderr.splitlines() == [
        "dispatchd: cannot resolve job j: the machine m1 takes no decisions from the hub; type there: dispatchd resolve j --fail"
    ]
    assert (await row(server, "j"))["decision"] is None


async def test_the_command_decides_and_says_what_follows(
    server: Hub, machine: Machine
) -> None:
    held = await parked(server, machine)

    none = await say(server, "resolve", "j")
    missing = await say(server, "resolve", "other", "--retry")
    done = await say(server, "resolve", "j", "--retry", "--note", "More disk now.")
    again = await say(server, "resolve", "j", "--retry", "--json")
    other = await say(server, "resolve", "j", "--succeed")
    shown = await say(server, "show", "j")

    assert [each.returncode for each in (none, missing, done, again, other)] == [
        *(64, 64),
        *(0, 0, 64),
    ]
    assert done.stdout == "j  decided: retry, waiting for the machine m1\n"
    assert "one of --retry, --fail, --succeed is needed" in none.stderr
    assert "decided already: retry" in other.stderr
    check("hub-job", json.loads(again.stdout))
    assert "decided: retry, waiting for the machine m1 (by " in shown.stdout
    assert "More disk now." in shown.stdout
    assert (await told(held))["note"] == "More disk now."


async def test_who_decides_is_in_the_audit_list_and_needs_the_scope_of_a_cancel(
    server: HubHere, machine: Machine
) -> None:
    await parked(server, machine)
    scopes = {"name": "reader", "scopes": ["read", "submit"]}
    made = await server.http.post("/api/v1/tokens", json=scopes)
    bearer = {"authorization": f"Bearer {made.json()['token']}"}
    body = {"as": "retry"}

    refused = await server.http.post(f"{JOBS}/j/resolve", json=body, headers=bearer)
    reply = await decide(server)

    refuses(refused, 403)
    [(_, change), *_] = server.context.stores.audit.newest(1)
    assert (change.who, change.path) == (
        reply.json()["decision"]["by"],
        f"{JOBS}/j/resolve",
    )


@pytest.mark.parametrize(
    "body",
    [{}, {"as": "succeeded"}, {"as": "fail", "note": "x" * 1001}, {"as": ["retry"]}],
)
async def test_a_decision_that_breaks_its_contract_is_refused(
    server: Hub, machine: Machine, body: dict[str, Any]
) -> None:
    await parked(server, machine)

    refuses(await server.http.post(f"{JOBS}/j/resolve", json=body), 422)

    assert (await row(server, "j"))["decision"] is None
