"""A cancel that was acknowledged is owed: nothing starts after it, the job ends, and whoever asked learns how."""

import httpx
import pytest

from dispatchd.protocol.contracts import check
from dispatchd.protocol.extensions import OF_MACHINES
from support.clock import advance
from support.hub import Hub
from support.machine import JOBS, Held, Machine, encoded, refuses, row
from support.until import until

CI = {"dag_name": "ci"}
STOP = {"id": "stop", "command": "cancel", "dag_run_id": "j"}


async def cancel(server: Hub, job_id: str = "j") -> None:
    reply = await server.http.post(f"{JOBS}/{encoded(job_id)}/cancel")
    assert reply.status_code == 200, reply.text


async def claimed(server: Hub, machine: Machine) -> Held:
    await server.submit({"id": "j", **CI})
    return await machine.pull()


async def until_ended(server: Hub, job_id: str) -> dict[str, str]:
    async def has_ended() -> bool:
        return bool((await row(server, job_id))["finished_at"])

    await until(has_ended)
    return await row(server, job_id)


async def none_left(server: Hub) -> bool:
    other = Machine(http=server.http, name="m2")
    return (await other.ask()).status_code == 204


async def test_a_release_ends_what_was_cancelled(
    each_server: Hub,
) -> None:
    server = each_server
    machine = Machine(http=server.http)
    held = await claimed(server, machine)
    await held.accept()
    await cancel(server)

    released = [await held.release() for _ in range(2)]

    assert [each.status_code for each in released] == [204, 204]
    job = await row(server, "j")
    assert (job["state"], job["result_cause"]) == ("aborted", "cancelled")
    assert "m1" in job["result_summary"]
    assert await none_left(server)
    refuses(await held.accept(), 410)


async def test_a_release_that_is_repeated_after_a_cancel_is_answered_as_before(
    server: Hub, machine: Machine
) -> None:
    held = await claimed(server, machine)
    await held.accept()
    first = await held.release()
    await cancel(server)

    assert (first.status_code, (await held.release()).status_code) == (204, 204)
    assert (await row(server, "j"))["state"] == "aborted"


async def test_what_nobody_has_accepted_ends_with_the_first_accept(
    server: Hub, machine: Machine
) -> None:
    held = await claimed(server, machine)
    await cancel(server)

    refuses(await held.accept(), 410)

    assert (await row(server, "j"))["state"] == "aborted"
    assert await none_left(server)


@pytest.mark.parametrize("extensions", [OF_MACHINES, None])
@pytest.mark.parametrize("how", ["release", "expiry"])
async def test_an_accept_under_an_earlier_claim_begins_nothing_after_a_cancel(
    server: Hub, machine: Machine, how: str, extensions: tuple[str, ...] | None
) -> None:
    earlier = await claimed(server, machine)
    await earlier.accept()
    await earlier.beat()
    if how == "release":
        await earlier.release()
    else:
        await advance(server.lease_s + server.patience_s + 1)
        await until(lambda: is_queued(server))
    other = Machine(http=server.http, name="m2", extensions=extensions)
    held = await other.pull()
    await cancel(server)

    accepted = await held.accept("run-2")
    if extensions is None:
        refuses(accepted, 410)
    else:
        # It may have begun it under a claim of before, and starts nothing after this.
        assert accepted.json()["cancel_requested"]
        await held.finish("aborted")

    assert (await row(server, "j"))["state"] == "aborted"
    assert await none_left(server)


async def test_a_repeated_accept_says_that_the_end_is_wanted(
    server: Hub, machine: Machine
) -> None:
    held = await claimed(server, machine)
    assert (await held.accept()).status_code == 204
    await cancel(server)

    reply = await held.accept()

    check("heartbeat-reply", reply.json())
    assert reply.json()["cancel_requested"] is True


@pytest.mark.parametrize("how", ["cancel", "expiry"])
async def test_who_comes_back_after_its_lease_hears_that_its_job_was_cancelled(
    server: Hub, machine: Machine, how: str
) -> None:
    held = await claimed(server, machine)
    await held.accept()
    await held.beat()

    if how == "expiry":
        await cancel(server)
    await advance(server.lease_s + server.patience_s + 1)
    if how == "cancel":
        await until(lambda: is_queued(server))
        await cancel(server)
    job = await until_ended(server, "j")

    assert job["state"] == "aborted"
    assert "before any machine" not in job["result_summary"]
    assert "m1" in job["result_summary"]
    reply = await held.beat()
    assert (reply.status_code, reply.json()["cancel_requested"]) == (200, True)
    assert (await row(server, "j"))["state"] == "aborted"
    stale = await machine.call("heartbeat", "j", claim_token="x", phase="running")
    refuses(stale, 410)


async def is_queued(server: Hub) -> bool:
    return bool((await row(server, "j"))["state"] == "queued")


async def test_a_cancel_job_for_a_machine_that_is_gone_ends_with_what_it_means(
    each_server: Hub,
) -> None:
    server = each_server
    held = await claimed(server, Machine(http=server.http))
    await held.accept()
    await held.beat()
    await server.submit(STOP)
    assert (await row(server, "stop"))["state"] == "queued"

    await advance(server.lease_s + server.patience_s + 1)

    assert (await until_ended(server, "j"))["state"] == "aborted"
    await advance(server.lease_s)
    job = await until_ended(server, "stop")
    assert (job["state"], job["result_summary"]) == (
        "succeeded",
        "Cancelled the job j.",
    )


@pytest.mark.parametrize(
    ("status", "state", "cause"),
    [("aborted", "succeeded", None), ("succeeded", "failed", "no-target")],
)
async def test_a_cancel_job_says_what_has_come_of_it_whoever_was_first(
    server: Hub, machine: Machine, status: str, state: str, cause: str | None
) -> None:
    held = await claimed(server, machine)
    await held.accept()
    await server.submit(STOP)

    finished: httpx.Response = await held.finish(status)
    await advance(server.lease_s)

    assert finished.status_code == 204
    job = await until_ended(server, "stop")
    assert (job["state"], job["result_cause"] or None) == (state, cause)
