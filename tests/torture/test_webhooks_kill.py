"""The hub is killed with SIGKILL between any two steps of taking deliveries in: each delivery is one job.

Senders repeat what was not answered. One that was answered is repeated too, as by people who press the button.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest
from attrs import define

from support.github_hub import deliveries, jobs
from support.hub_process import HubProcess, hub
from support.kill_hub import MARK, Arm
from support.torture import POSTGRESQL, Sweep, lasting_port
from support.until import until
from support.webhooks import (
    CONFIG,
    alertmanager,
    gitea,
    gitlab,
    plain,
    prepared,
    real,
)

COUNT = 20
"""How many deliveries of each sender come to two hub processes, each four times."""


@define
class Senders:
    """Senders that repeat what was not answered."""

    server: HubProcess
    killed: bool = False

    async def until_answered(
        self, send: Callable[[], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        while True:
            try:
                return await send()
            except httpx.TransportError:
                code = await anyio.to_thread.run_sync(self.server.process.wait)
                assert (code, self.killed) == (-9, False)
                self.killed, self.server.env = True, {}
                await self.server.start()


async def take_in_despite_a_kill(
    arm: Arm, folder: Path, sweep: Sweep, step: int
) -> None:
    prepared(folder)
    async with arm(sweep, step, more=CONFIG) as server:
        senders = Senders(server)
        sent: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda: gitea(server, real("gitea/push"), "g-1"),
            lambda: gitlab(server, real("gitlab/push"), "l-1"),
            lambda: alertmanager(server, real("alertmanager/firing")),
            lambda: plain(server, {"deploy": 1}),
        ]
        replies = [await senders.until_answered(send) for send in sent]
        (folder / MARK).unlink()
        killed = senders.killed
        again = [await senders.until_answered(send) for send in sent]
        found, kept = await jobs(server), await deliveries(server)
    codes = [reply.status_code for reply in replies]
    # 200: it was stored, and the answer was lost.
    assert codes.count(202) >= 4 - killed
    assert set(codes) <= {200, 202}
    assert [reply.status_code for reply in again] == [200] * 4
    assert [each["job_ids"] for each in kept] == [[job["id"]] for job in found]
    assert len({job["id"] for job in found}) == len(found) == 4
    sweep.require(step, killed=killed)


ON_SQLITE = Sweep(least=14, most=24)
ON_POSTGRESQL = Sweep(database=POSTGRESQL, least=60, most=110)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.smoke(3, 9), *ON_POSTGRESQL.smoke(30)]
)
async def test_each_delivery_is_one_job_though_the_hub_is_killed_at_a_few_steps(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await take_in_despite_a_kill(arm, tmp_path / "hub", sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.every_step(), *ON_POSTGRESQL.every_step()]
)
async def test_each_delivery_is_one_job_though_the_hub_is_killed_at_any_step(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await take_in_despite_a_kill(arm, tmp_path / "hub", sweep, step)


@pytest.mark.host
async def test_two_hub_processes_make_one_job_of_each_delivery(
    tmp_path: Path, postgresql_url: str
) -> None:
    options = {"database_url": postgresql_url, "more": CONFIG}
    folders = [prepared(tmp_path / name) for name in ("one", "other")]
    async with (
        hub(folders[0], port=lasting_port(), **options) as one,
        hub(folders[1], **options) as other,
    ):
        codes = Counter[int]()
        is_back = anyio.Event()

        async def deliver(number: int, server: HubProcess) -> None:
            sends: list[Callable[[], Awaitable[httpx.Response]]] = [
                lambda: gitea(server, {"number": number}, f"g-{number}"),
                lambda: gitlab(server, {"number": number}, f"l-{number}"),
                lambda: plain(server, {"number": number}),
            ]
            for send in sends:
                while True:
                    try:
                        codes[(await send()).status_code] += 1
                        break
                    except httpx.TransportError:
                        # It is killed, and comes back on its port.
                        await is_back.wait()

        async with anyio.create_task_group() as tasks:
            for number in range(COUNT):
                for server in (one, other, one, other):
                    tasks.start_soon(deliver, number, server)
            await until(lambda: codes.total() >= 2 * COUNT, 60)
            one.kill()
            await one.start()
            is_back.set()
        found = await jobs(other)
        kept = await deliveries(other)

    assert set(codes) == {200, 202}
    assert codes.total() == COUNT * 4 * 3
    # One that was stored, and whose answer was lost with the process, has only been told to be a duplicate.
    assert codes[202] <= COUNT * 3
    assert len({job["id"] for job in found}) == len(found) == COUNT * 3
    assert len(kept) == COUNT * 3
