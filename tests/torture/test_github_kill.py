"""The hub is killed with SIGKILL between any two steps of taking a webhook in: nothing is lost, nothing is doubled.

What GitHub got no success for it shows as failed, and sends once more under the same id.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import pytest
from attrs import define

from support.github_events import comment, pull_request
from support.github_hub import CONFIG, deliveries, jobs, prepared, send
from support.hub_process import HubProcess
from support.kill_hub import MARK, Arm
from support.machine import Machine
from support.torture import POSTGRESQL, Sweep

T = TypeVar("T")

EVENTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("d-1", "pull_request", pull_request(), 2),
    ("d-2", "pull_request", pull_request("closed"), 0),
    ("d-3", "issue_comment", comment("/run deploy"), 1),
    ("d-4", "pull_request", pull_request("synchronize"), 2),
]
"""Deliveries, and how many jobs each has to make."""


@define
class Github:
    """Repeats what was not answered, as GitHub and people do."""

    server: HubProcess
    killed: bool = False

    async def until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except httpx.TransportError:
                code = await anyio.to_thread.run_sync(self.server.process.wait)
                assert (code, self.killed) == (-9, False)
                self.killed, self.server.env = True, {}
                await self.server.start()

    async def deliver(self, delivery: str, event: str, payload: dict[str, Any]) -> None:
        reply = await self.until_answered(
            lambda: send(self.server, event, payload, delivery)
        )
        # 200: it was kept, and the answer got lost.
        assert reply.status_code == 202 or (self.killed and reply.status_code == 200)


async def take_in_despite_a_kill(
    arm: Arm, folder: Path, sweep: Sweep, step: int
) -> None:
    prepared(folder)
    async with arm(sweep, step, more=CONFIG) as server:
        github = Github(server)
        for delivery, name, payload, _ in EVENTS:
            await github.deliver(delivery, name, payload)
        (folder / MARK).unlink()
        # What the hub does by itself are steps too.
        kept = await github.until_answered(lambda: deliveries(server))
        found = await github.until_answered(lambda: jobs(server))
        killed = github.killed
        check(kept, found)
        machine = Machine(http=server.http)
        for _ in range(4):
            await (await machine.pull()).finish()
    sweep.require(step, killed=killed)


def check(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Hold that each delivery and each of its jobs is there once."""
    assert [each["id"] for each in kept] == ["d-1", "d-2", "d-3", "d-4"]
    by_id = {job["id"]: job for job in found}
    assert len(by_id) == len(found) == 5
    for delivery, (_, _, _, count) in zip(kept, EVENTS, strict=True):
        assert len(delivery["job_ids"]) == count
        for job_id in delivery["job_ids"]:
            assert by_id[job_id]["delivery_id"] == delivery["id"]


ON_SQLITE = Sweep(least=14, most=24)
ON_POSTGRESQL = Sweep(database=POSTGRESQL, least=70, most=110)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.smoke(2, 8, 14), *ON_POSTGRESQL.smoke(40)]
)
async def test_a_hub_that_is_killed_at_a_few_steps_has_each_event_once(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await take_in_despite_a_kill(arm, tmp_path / "hub", sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.every_step(), *ON_POSTGRESQL.every_step()]
)
async def test_a_hub_that_is_killed_at_any_step_has_each_event_once(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await take_in_despite_a_kill(arm, tmp_path / "hub", sweep, step)
