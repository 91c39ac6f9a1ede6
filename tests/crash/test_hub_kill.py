"""The hub is killed with SIGKILL between any two steps of its calls: what it has acknowledged, it keeps.

PostgreSQL is told each statement by itself, which is over 70 steps a story, of which most are in one transaction:
the suite takes every fifth; with DISPATCHD_EVERY_STEP=1 it takes them all.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from attrs import define

from support.hub_process import HubProcess
from support.kill_hub import armed
from support.machine import JOBS, Held, Machine, row

RANK = ["queued", "claimed", "accepted", "running", "succeeded"]


@define
class Client:
    """Submits a job and carries it, and repeats each call until it is answered, as real ones do."""

    server: HubProcess
    acknowledged: str = ""
    """The state that the hub has acknowledged last."""
    killed: bool = False

    async def until_answered(
        self, call: Callable[[], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        while True:
            try:
                return await call()
            except httpx.TransportError:
                await self._revive()

    async def _revive(self) -> None:
        code = await anyio.to_thread.run_sync(self.server.process.wait)
        assert (code, self.killed) == (-9, False)
        self.killed = True
        self.server.env = {}
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
        # A claim whose answer got lost comes again after its lease.
        reply = await self.until_answered(lambda: machine.ask(wait="30"))
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
    # A claim whose answer got lost.
    assert lost in ([], ["expired"])


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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("story", "lease_s"), [(finishing, 2), (taking_back, 0.4)])
async def test_killed_between_any_two_steps(
    tmp_path: Path,
    kill_hub: Path,
    story: Callable[[Client], Awaitable[None]],
    lease_s: float,
    new_database_url: Callable[[], str],
) -> None:
    url = new_database_url()
    thin = url.startswith("postgresql") and "DISPATCHD_EVERY_STEP" not in os.environ
    step, killed = -4 if thin else 0, True
    while killed:
        step += 5 if thin else 1
        folder = tmp_path / f"h{step}"
        url = new_database_url()
        async with armed(folder, url, kill_hub, step, lease_s=lease_s) as server:
            client = Client(server)
            await story(client)
            killed = client.killed
    print(f"{story.__name__}: the hub survived step {step}")

    assert step > 12
