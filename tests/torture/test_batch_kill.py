"""The hub is killed with SIGKILL while many submit at the same time: a batch is on the disk as a whole, or not at all."""

import json

import anyio
import httpx
import pytest
from anyio import to_thread

from support.kill_hub import Arm, spare
from support.machine import JOBS, Machine
from support.torture import POSTGRESQL, Sweep

CLIENTS = 8
EACH = 6

BATCHES = Sweep(least=40, most=400)
BATCHES_POSTGRESQL = Sweep(database=POSTGRESQL, least=150, most=1500)


async def keep_what_is_acknowledged(arm: Arm, sweep: Sweep, step: int) -> None:
    async with arm(sweep, step) as server:
        acknowledged: set[str] = set()

        async def submit(client: int) -> None:
            for number in range(EACH):
                job_id = f"{client}-{number}"
                body = {"id": job_id, "dag_name": "ci", "payload": {"of": job_id}}
                try:
                    reply = await server.http.post(JOBS, json=body)
                except httpx.TransportError:
                    return
                assert reply.status_code == 201
                acknowledged.add(job_id)

        async with anyio.create_task_group() as tasks:
            for client in range(CLIENTS):
                tasks.start_soon(submit, client)
        killed = len(acknowledged) < CLIENTS * EACH
        if killed:
            assert await to_thread.run_sync(server.process.wait) == -9
            spare(server)
            await server.start()
        listed = (await server.http.get(JOBS, params={"limit": "1000"})).json()["jobs"]
        assert acknowledged <= {job["id"] for job in listed}
        # Each is there with its payload.
        machine = Machine(http=server.http)
        for _ in listed:
            job = json.loads((await machine.ask()).text)
            assert job["payload"] == {"of": job["id"]}
        metrics = (await server.http.get("/metrics")).text
        assert f'dispatchd_hub_jobs{{state="claimed"}} {len(listed)}.0' in metrics
    sweep.require(step, killed=killed)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [*BATCHES.smoke(2, 11, 24), *BATCHES_POSTGRESQL.smoke(40)],
)
async def test_what_is_acknowledged_is_kept_whole_though_the_hub_is_killed_at_a_few_steps(
    arm: Arm, sweep: Sweep, step: int
) -> None:
    await keep_what_is_acknowledged(arm, sweep, step)


@pytest.mark.torture
@pytest.mark.parametrize("step", range(1, BATCHES.least, 3))
async def test_what_is_acknowledged_is_kept_whole_though_the_hub_is_killed_in_a_batch(
    arm: Arm, step: int
) -> None:
    await keep_what_is_acknowledged(arm, BATCHES, step)
