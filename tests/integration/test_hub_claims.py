"""Who has a job, and for how long: claims, held polls, leases, cancels, on a real hub."""

from collections import Counter

import anyio

from dispatchd.protocol.contracts import check
from support.clock import advance, within
from support.hub import Hub
from support.machine import Held, Machine, held_poll, row
from support.until import until

CI = {"dag_name": "ci"}


async def claim_that_ends(server: Hub) -> None:
    """Let a machine claim a job, and never say anything again."""
    await server.submit({"id": "silent", "dag_name": "silent"})
    await Machine(http=server.http, name="m7", workflows=["silent"]).pull()


async def until_the_hub_has_looked(server: Hub) -> None:
    """Return once the hub has looked for leases that are over."""

    async def is_taken_back() -> bool:
        return bool((await row(server, "silent"))["state"] == "queued")

    await until(is_taken_back)


async def test_no_job_goes_to_two_machines(each_server: Hub) -> None:
    server, taken = each_server, list[str]()
    ids = [await server.submit(CI) for _ in range(60)]

    async def take(name: str) -> None:
        machine = Machine(http=server.http, name=name)
        while (reply := await machine.ask()).status_code == 200:
            taken.append(reply.json()["id"])

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(take, f"m{number}")

    assert Counter(taken) == Counter(ids)


async def test_a_held_poll_is_woken_by_a_submit_and_by_a_release(
    each_server: Hub,
) -> None:
    server = each_server
    machine, other = (Machine(http=server.http, name=name) for name in "ab")
    with within(20):
        async with held_poll(machine) as first:
            await server.submit({"id": "j", **CI})
        token = first.reply.json()["claim_token"]
        async with held_poll(other) as second:
            await machine.call("release", "j", claim_token=token)

    assert [first.reply.json()["id"], second.reply.json()["id"]] == ["j", "j"]
    assert second.reply.json()["claimed_by"] == "b"


async def test_a_machine_that_hung_up_is_given_nothing(each_server: Hub) -> None:
    server = each_server
    gone, machine = (Machine(http=server.http, name=name) for name in "ab")
    for patience_s in [0.001 * number for number in range(24)]:
        with anyio.move_on_after(patience_s):
            await gone.ask(wait="60")
        await server.submit(CI)

        # Where the hub was just handing it over it takes the job back, and says so to held polls.
        assert (await machine.pull(wait="10")).job["claimed_by"] == "b"


async def test_a_claim_that_nobody_accepts_is_handed_out_again(
    each_server: Hub,
) -> None:
    server = each_server
    await server.submit({"id": "j", **CI})
    first = await Machine(http=server.http).pull()

    other = Machine(http=server.http, name="m2")
    with within(20):
        # Woken by the hub itself, long before it would look again.
        async with held_poll(other, wait="300") as poll:
            await advance(server.lease_s)
    again = Held(machine=other, job=poll.reply.json(), text=poll.reply.text)

    for stale in (first.accept(), first.finish(), first.beat(), first.release()):
        assert (await stale).status_code == 409
    assert again.token != first.token
    assert (await again.accept()).status_code == 204
    assert (await row(server, "j"))["deliveries"] == 2


async def test_a_revoked_machine_learns_that_at_once(
    server: Hub, machine: Machine
) -> None:
    with within(20):
        async with held_poll(machine, wait="300") as poll:
            reply = await server.http.post(f"/api/v1/machines/{machine.name}/revoke")
            assert reply.status_code == 200

    assert poll.reply.status_code == 410


async def test_a_late_result_is_taken_until_the_job_is_handed_out_again(
    server: Hub, machine: Machine
) -> None:
    for name in ("old", "new"):
        await server.submit({"id": name, **CI})
    old, new = await machine.pull(), await machine.pull()
    await claim_that_ends(server)
    await advance(server.lease_s)
    await until_the_hub_has_looked(server)

    again = await Machine(http=server.http, name="m2", workflows=["ci"]).pull()

    assert again.id == "old"
    assert (await old.finish("rejected")).status_code == 409
    assert (await new.finish("rejected")).status_code == 204
    assert (await row(server, "new"))["result_status"] == "rejected"


async def test_a_heartbeat_and_an_accept_extend_the_lease(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await claim_that_ends(server)

    await advance(0.6 * server.lease_s)
    await held.beat()
    await advance(0.6 * server.lease_s)
    await until_the_hub_has_looked(server)
    nothing = await Machine(http=server.http, name="m2", workflows=["ci"]).ask()
    await held.accept()
    await advance(0.6 * server.lease_s)

    assert nothing.status_code == 204
    assert not (await row(server, "j"))["lease_expired"]


async def test_an_accepted_job_stays_with_its_machine(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    await claim_that_ends(server)

    await advance(server.lease_s)
    await until_the_hub_has_looked(server)
    nothing = await Machine(http=server.http, name="m2", workflows=["ci"]).ask()
    late = (await row(server, "j"))["lease_expired"]
    await held.beat()
    beaten = (await row(server, "j"))["lease_expired"]

    assert nothing.status_code == 204
    assert (late, beaten) == (True, False)
    assert (await held.finish()).status_code == 204


async def test_cancel_closes_a_queued_job_at_once(
    server: Hub, machine: Machine
) -> None:
    target = {"repository_name": "o/r", "pull_request_number": 7, **CI}
    await server.submit({"id": "other", **target, "pull_request_number": 8})
    await server.submit({"id": "target", **target})

    await server.submit({"id": "stop", **target, "command": "cancel"})

    found = await row(server, "target")
    assert (found["state"], found["result_status"]) == ("aborted", "aborted")
    assert (await row(server, "stop"))["state"] == "succeeded"
    assert (await machine.pull()).id == "other"
    assert (await machine.ask()).status_code == 204


async def test_cancel_reaches_a_running_job_through_its_heartbeat(
    server: Hub, machine: Machine
) -> None:
    for name in ("target", "other"):
        await server.submit({"id": name, **CI})
    target, other = await machine.pull(), await machine.pull()
    await target.accept("run-7")
    await other.accept("run-8")

    await server.submit({"command": "cancel", "dag_run_id": "run-7"})

    replies = [await target.beat(), await other.beat()]
    for reply in replies:
        check("heartbeat-reply", reply.json())
    assert [r.json()["cancel_requested"] for r in replies] == [True, False]
    assert (await target.finish("aborted")).status_code == 204


async def test_a_heartbeat_that_the_accept_has_overtaken_takes_nothing_back(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    assert (await held.beat("pending_accept")).status_code == 200
    assert (await row(server, "j"))["state"] == "accepted"
    await claim_that_ends(server)

    # Only the lease is over, and not the patience with a machine that has accepted.
    await advance(server.lease_s + 1)
    await until_the_hub_has_looked(server)

    other = Machine(http=server.http, name="m2", workflows=["ci"])
    assert (await other.ask()).status_code == 204
    assert (await row(server, "j"))["state"] == "accepted"
