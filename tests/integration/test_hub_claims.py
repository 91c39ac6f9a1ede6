"""Who has a job, and for how long: claims, held polls, leases, cancels, on a real hub process."""

from collections import Counter
from pathlib import Path

import anyio

from dispatchd.contracts import check
from support.clock import advance
from support.hub import Hub, hub
from support.machine import JOBS, Machine, held_poll, row

CI = {"dag_name": "ci"}


async def test_no_job_goes_to_two_machines(tmp_path: Path, database_url: str) -> None:
    taken: list[str] = []

    async with hub(tmp_path, database_url=database_url) as server:
        ids = [await server.submit(CI) for _ in range(200)]

        async def take(name: str) -> None:
            machine = Machine(http=server.http, name=name)
            while (reply := await machine.ask()).status_code == 200:
                taken.append(reply.json()["id"])

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(take, f"m{number}")

    assert Counter(taken) == Counter(ids)


async def test_a_held_poll_is_woken_by_a_submit_and_by_a_release(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url) as server:
        machine, other = (Machine(http=server.http, name=name) for name in "ab")
        with anyio.fail_after(20):
            async with held_poll(machine) as first:
                await server.submit({"id": "j", **CI})
            token = first.reply.json()["claim_token"]
            async with held_poll(other) as second:
                await machine.call("release", "j", claim_token=token)

    assert [first.reply.json()["id"], second.reply.json()["id"]] == ["j", "j"]
    assert second.reply.json()["claimed_by"] == "b"


async def test_a_machine_that_hung_up_is_given_nothing(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url) as server:
        gone, machine = (Machine(http=server.http, name=name) for name in "ab")
        for patience_s in [0.001 * number for number in range(40)]:
            with anyio.move_on_after(patience_s):
                await gone.ask(wait="60")
            await server.submit(CI)

            # Where the hub was just handing it over it takes the job back, and says so to held polls.
            assert (await machine.pull(wait="10")).job["claimed_by"] == "b"


async def test_a_claim_that_nobody_accepts_is_handed_out_again(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url, lease_s=0.4) as server:
        await server.submit({"id": "j", **CI})
        first = await Machine(http=server.http).pull()

        with anyio.fail_after(10):
            again = await Machine(http=server.http, name="m2").pull(wait="30")

        for stale in (first.accept(), first.finish(), first.beat(), first.release()):
            assert (await stale).status_code == 409
        assert again.token != first.token
        assert (await again.accept()).status_code == 204
        assert (await row(server, "j"))["deliveries"] == 2


async def test_a_late_result_is_taken_until_the_job_is_handed_out_again(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url, lease_s=0.3) as server:
        machine = Machine(http=server.http)
        for name in ("old", "new"):
            await server.submit({"id": name, **CI})
        old, new = await machine.pull(), await machine.pull()
        for name in ("old", "new"):
            await time_passes(server, name, 0.4)

        again = await Machine(http=server.http, name="m2").pull()

        assert again.id == "old"
        assert (await old.finish("rejected")).status_code == 409
        assert (await new.finish("rejected")).status_code == 204
        assert (await row(server, "new"))["result_status"] == "rejected"


async def test_a_heartbeat_and_an_accept_extend_the_lease(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url, lease_s=1.5) as server:
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()

        await time_passes(server, "j", 1)
        await held.beat()
        await time_passes(server, "j", 1)
        nothing = await Machine(http=server.http, name="m2").ask()
        await held.accept()
        await time_passes(server, "j", 1)

        assert nothing.status_code == 204
        assert not (await row(server, "j"))["lease_expired"]


async def time_passes(server: Hub, job_id: str, seconds: float) -> None:
    """Return after a watch of a job that does not finish."""
    await server.http.get(f"{JOBS}/{job_id}", params={"wait": str(seconds)})


async def test_an_accepted_job_stays_with_its_machine(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url, lease_s=0.5) as server:
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()
        await held.accept()

        nothing = await Machine(http=server.http, name="m2").ask(wait="1")
        late = (await row(server, "j"))["lease_expired"]
        await held.beat()
        beaten = (await row(server, "j"))["lease_expired"]

        assert nothing.status_code == 204
        assert (late, beaten) == (True, False)
        assert (await held.finish()).status_code == 204


async def test_cancel_closes_a_queued_job_at_once(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url) as server:
        target = {"repository_name": "o/r", "pull_request_number": 7, **CI}
        await server.submit({"id": "other", **target, "pull_request_number": 8})
        await server.submit({"id": "target", **target})

        await server.submit({"id": "stop", **target, "command": "cancel"})

        found = await row(server, "target")
        assert (found["state"], found["result_status"]) == ("aborted", "aborted")
        assert (await row(server, "stop"))["state"] == "succeeded"
        machine = Machine(http=server.http)
        assert (await machine.pull()).id == "other"
        assert (await machine.ask()).status_code == 204


async def test_cancel_reaches_a_running_job_through_its_heartbeat(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url) as server:
        machine = Machine(http=server.http)
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


async def test_cancel_finds_its_job_among_many(
    tmp_path: Path, database_url: str
) -> None:
    async with hub(tmp_path, database_url=database_url) as server:
        await server.submit({"id": "oldest", **CI})
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(submit, server, 52)

        await server.submit({"command": "cancel", **CI})

        assert (await row(server, "oldest"))["result_status"] == "aborted"


async def submit(server: Hub, count: int) -> None:
    for _ in range(count):
        await server.submit({"dag_name": "other"})


async def test_a_heartbeat_that_the_accept_has_overtaken_takes_nothing_back(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub", lease_s=10, patience_s=20) as server:
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()
        await held.accept()
        assert (await held.beat("pending_accept")).status_code == 200
        assert (await row(server, "j"))["state"] == "accepted"

        # Only the lease is over, and not the patience with a machine that has accepted.
        await advance(15)

        other = Machine(http=server.http, name="m2")
        assert (await other.ask()).status_code == 204
        assert (await row(server, "j"))["state"] == "accepted"
