"""The hub is killed with SIGKILL between any two steps of its calls: what it has acknowledged, it keeps."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from anyio import to_thread
from attrs import define

from support.hub_process import HubProcess
from support.kill_hub import Arm, spare
from support.machine import JOBS, Held, Machine, row
from support.torture import POSTGRESQL, Sweep

LEASE_S = 5
"""Long for a busy machine between a pull and its accept, short for who waits for its end."""

RANK = ["queued", "claimed", "accepted", "running", "succeeded"]


@define
class Client:
    """Submits a job and carries it, and repeats each call until it is answered, as real ones do."""

    server: HubProcess
    acknowledged: str = ""
    """The state that the hub has acknowledged last."""
    killed: bool = False
    lost_claim: bool = False
    """Whether the hub was killed while it was asked for a job."""

    async def until_answered(
        self, call: Callable[[], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        """Repeat a call until it is answered."""
        while True:
            try:
                return await call()
            except httpx.TransportError:
                await self._revive()

    async def _revive(self) -> None:
        code = await to_thread.run_sync(self.server.process.wait)
        assert (code, self.killed) == (-9, False)
        self.killed = True
        spare(self.server)
        await self.server.start()
        if self.acknowledged:
            found = await row(self.server, "j")
            assert found["state"] in RANK[RANK.index(self.acknowledged) :]

    async def job(self) -> dict[str, Any]:
        reply = await self.until_answered(lambda: self.server.http.get(f"{JOBS}/j"))
        found: dict[str, Any] = reply.json()
        return found

    async def submit(self, document: dict[str, Any]) -> None:
        reply = await self.until_answered(
            lambda: self.server.http.post(JOBS, json=document)
        )
        # 409: it was kept, and the answer got lost.
        assert reply.status_code == 201 or (self.killed and reply.status_code == 409)

    async def pull(self, machine: Machine) -> Held:
        before = self.killed
        # A claim whose answer got lost comes again after its lease.
        reply = await self.until_answered(lambda: machine.ask(wait="30"))
        self.lost_claim |= self.killed is not before
        assert reply.status_code == 200, reply.text
        return Held(machine=machine, job=reply.json(), text=reply.text)

    async def tell(self, call: Callable[[], Awaitable[httpx.Response]]) -> None:
        reply = await self.until_answered(call)
        assert reply.is_success, reply.text


async def finishing(client: Client) -> None:
    """Submit, claim, accept, heartbeat, finish."""
    machine = Machine(http=client.server.http)
    await client.submit({"id": "j", "dag_name": "ci"})
    client.acknowledged = "queued"
    held = await client.pull(machine)
    client.acknowledged = "claimed"
    await client.tell(held.accept)
    client.acknowledged = "accepted"
    await client.tell(held.beat)
    client.acknowledged = "running"
    await client.tell(held.finish)
    client.acknowledged = "succeeded"
    found = await client.job()
    assert found["state"] == "succeeded"
    *lost, last = [each["outcome"] for each in found["attempts"]]
    assert last == "succeeded"
    assert lost == [] or (client.lost_claim and lost == ["expired"])


async def taking_back(client: Client) -> None:
    """Submit, claim, release, claim, expire, claim, cancel, finish."""
    machine = Machine(http=client.server.http)
    await client.submit({"id": "j", "dag_name": "ci"})
    released = await client.pull(machine)
    await client.tell(released.release)
    await client.pull(machine)
    held = await client.pull(machine)
    await client.tell(held.accept)
    await client.submit({"id": "stop", "command": "cancel", "dag_run_id": "j"})
    assert (await client.until_answered(held.beat)).json()["cancel_requested"] is True
    await client.tell(lambda: held.finish("aborted"))
    found = await client.job()
    assert (found["state"], len(found["attempts"])) == ("aborted", found["deliveries"])
    outcomes = [each["outcome"] for each in found["attempts"]]
    assert outcomes[-1] == "aborted"
    assert set(outcomes[:-1]) == {"released", "expired"}
    assert outcomes.count("released") == 1
    assert outcomes.count("expired") <= (2 if client.lost_claim else 1)


async def finish_despite_a_kill(arm: Arm, sweep: Sweep, step: int) -> None:
    async with arm(sweep, step, lease_s=LEASE_S) as server:
        client = Client(server)
        await finishing(client)
    sweep.require(step, killed=client.killed)


async def take_back_despite_a_kill(arm: Arm, sweep: Sweep, step: int) -> None:
    async with arm(sweep, step, lease_s=LEASE_S) as server:
        client = Client(server)
        await taking_back(client)
    sweep.require(step, killed=client.killed)


FINISHING = Sweep(least=18, most=26)
FINISHING_POSTGRESQL = Sweep(database=POSTGRESQL, least=75, most=120)
TAKING_BACK = Sweep(least=35, most=45)
TAKING_BACK_POSTGRESQL = Sweep(database=POSTGRESQL, least=140, most=190)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [*FINISHING.smoke(2, 10, 18), *FINISHING_POSTGRESQL.smoke(40)],
)
async def test_a_job_finishes_though_the_hub_is_killed_at_a_few_steps(
    arm: Arm, sweep: Sweep, step: int
) -> None:
    await finish_despite_a_kill(arm, sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [*FINISHING.every_step(), *FINISHING_POSTGRESQL.every_step()],
)
async def test_a_job_finishes_though_the_hub_is_killed_at_any_step(
    arm: Arm, sweep: Sweep, step: int
) -> None:
    await finish_despite_a_kill(arm, sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [*TAKING_BACK.smoke(2, 18, 35), *TAKING_BACK_POSTGRESQL.smoke(90)],
)
async def test_a_job_is_taken_back_though_the_hub_is_killed_at_a_few_steps(
    arm: Arm, sweep: Sweep, step: int
) -> None:
    await take_back_despite_a_kill(arm, sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [*TAKING_BACK.every_step(), *TAKING_BACK_POSTGRESQL.every_step()],
)
async def test_a_job_is_taken_back_though_the_hub_is_killed_at_any_step(
    arm: Arm, sweep: Sweep, step: int
) -> None:
    await take_back_despite_a_kill(arm, sweep, step)
