"""The hub is killed with SIGKILL between any two steps of taking a webhook in: nothing is lost, nothing is doubled.

What GitHub got no success for it shows as failed, and sends once more under the same id.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from support.github_events import comment, pull_request
from support.github_hub import CONFIG, deliveries, jobs, prepared, send
from support.hub import HubProcess
from support.kill_hub import MARK, armed
from support.machine import Machine

EVENTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("d-1", "pull_request", pull_request(), 2),
    ("d-2", "pull_request", pull_request("closed"), 0),
    ("d-3", "issue_comment", comment("/run deploy"), 1),
    ("d-4", "pull_request", pull_request("synchronize"), 2),
]
"""Deliveries, and how many jobs each has to make."""


async def deliver(
    server: HubProcess, event: tuple[str, str, dict[str, Any], int]
) -> bool:
    """Send an event until it was taken; return whether the hub was killed meanwhile."""
    delivery, name, payload, _ = event
    killed = False
    while True:
        try:
            reply = await send(server, name, payload, delivery)
        except httpx.TransportError:
            code = await anyio.to_thread.run_sync(server.process.wait)
            assert (code, killed) == (-9, False)
            killed, server.env = True, {}
            await server.start()
            continue
        # 200: it was kept, and the answer got lost.
        assert reply.status_code == 202 or (killed and reply.status_code == 200)
        return killed


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hub_that_is_killed_at_any_step_has_each_event_once(
    tmp_path: Path, kill_hub: Path, new_database_url: Callable[[], str]
) -> None:
    url = new_database_url()
    thin = url.startswith("postgresql") and "DISPATCHD_EVERY_STEP" not in os.environ
    step, killed = -2 if thin else 0, True
    while killed:
        step += 3 if thin else 1
        folder, url = prepared(tmp_path / f"h{step}"), new_database_url()
        async with armed(folder, url, kill_hub, step, more=CONFIG) as server:
            killed = False
            for event in EVENTS:
                killed |= await deliver(server, event)
            (folder / MARK).unlink()
            kept = {each["id"]: each for each in await deliveries(server)}
            assert [*kept] == ["d-1", "d-2", "d-3", "d-4"]
            found = {job["id"]: job for job in await jobs(server)}
            for delivery, _, _, count in EVENTS:
                ids = kept[delivery]["job_ids"]
                assert len(ids) == count
                assert all(found[each]["delivery_id"] == delivery for each in ids)
            assert len(found) == 5
            machine = Machine(http=server.http)
            for _ in range(4):
                await (await machine.pull()).finish()
    print(f"the hub survived step {step}")

    assert step > 8
