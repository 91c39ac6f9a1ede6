"""Several hubs on one PostgreSQL, many machines, and kills of both at random: each job runs and finishes once.

The promise is for four hubs, twenty machines and 10,000 jobs: `make torture SIZE=25`.
"""

import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from attrs import define, field, frozen
from bench.postgres import Postgres

from dispatchd.hub.api.machines import invited
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore
from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.endpoint import SECRET
from support.hub_process import HubProcess, hub
from support.machine import JOBS
from support.torture import Torture, lasting_port
from support.until import until

USUAL_JOBS = 400
LEAST_JOBS = 100
LEAST_KILLS = 3
"""How much there is even if the time is over; kills are counted for hubs and for daemons."""

WAITING = 100
"""How many jobs are in the queue or with machines at a time."""

LEASE_S = 6.0
PATIENCE_S = 120.0
"""Longer than a killed daemon is away: what runs is its own."""

RUN = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"'
"""Appended in one write(2) (O_APPEND), so that the lines of many runs don't mix."""

GoesOn = Callable[[int, int], bool]
"""Whether another job is submitted, by the number of jobs so far, and of kills (of hubs or of daemons, the fewer)."""


@frozen(kw_only=True)
class Fleet:
    """Everything that may be killed."""

    hubs: list[HubProcess]
    daemons: list[DaemonProcess]
    kills: Counter[str] = field(factory=Counter)

    async def kill_for_ever(self, chance: random.Random) -> None:
        """Kill one after the other at random moments, and start it again."""
        # In turn, so that each has time to start on a busy machine: a hub's start is waited for between two of them.
        daemons = cycle(chance.sample(self.daemons, k=len(self.daemons)))
        for kind in cycle(("hub", "daemon")):
            # The kills come at moments that nothing announces.
            await anyio.sleep(chance.uniform(0.1, 0.8))
            if kind == "hub":
                one = chance.choice(self.hubs)
                one.kill()
                with anyio.CancelScope(shield=True):
                    await one.start()
            else:
                daemon = next(daemons)
                daemon.kill()
                daemon.start()
            self.kills[kind] += 1

    @property
    def fewest_kills(self) -> int:
        return min(self.kills["hub"], self.kills["daemon"])


@define
class Queue:
    """Submits jobs and follows them; repeats each call at another hub where one is killed."""

    hubs: list[HubProcess]
    submitted: int = 0
    ended: list[dict[str, Any]] = field(factory=list)
    """Each job that has ended, in the order of submission."""

    async def submit(self) -> None:
        document = {"id": f"job-{self.submitted}", "dag_name": "it"}
        self.submitted += 1
        reply, lost = await self._ask("POST", JOBS, json=document)
        # 409: it was kept, and the answer got lost.
        assert reply.status_code == 201 or (lost and reply.status_code == 409)

    async def follow(self) -> None:
        """Wait until the next job has ended."""
        path = f"{JOBS}/job-{len(self.ended)}"
        while True:
            reply, _ = await self._ask("GET", path, params={"wait": "20"})
            job = reply.json()
            assert reply.status_code == 200, job
            if job["ended"]:
                self.ended.append(job)
                return

    async def _ask(
        self, method: str, path: str, **options: Any
    ) -> tuple[httpx.Response, bool]:
        """Return an answer, and whether an earlier one may have been lost."""
        servers, lost = cycle(self.hubs), False

        async def answer() -> httpx.Response | None:
            nonlocal lost
            try:
                return await next(servers).http.request(method, path, **options)
            except httpx.TransportError:
                lost = True
                return None

        # All may be away at once, and none says when it is back.
        reply: httpx.Response | None = await until(answer, 60, path)
        assert reply is not None
        return reply, lost


@pytest.mark.host
@pytest.mark.timeout(300)
async def test_each_job_runs_and_finishes_once_in_a_small_fleet(
    tmp_path: Path, postgresql: Postgres
) -> None:
    def goes_on(jobs: int, kills: int) -> bool:
        return jobs < 40 or kills < 2

    chance = random.Random(20261121)
    await live(tmp_path, postgresql.new_database(), chance, goes_on, hubs=2, machines=3)


@pytest.mark.torture(least_s=60)
@pytest.mark.timeout(3600)
async def test_each_job_runs_and_finishes_once_whoever_is_killed(
    tmp_path: Path, postgresql: Postgres, torture: Torture
) -> None:
    most = USUAL_JOBS * torture.size

    def goes_on(jobs: int, kills: int) -> bool:
        if torture.is_over:
            return jobs < LEAST_JOBS or kills < LEAST_KILLS
        return jobs < most or kills < LEAST_KILLS

    chance = torture.chance("kills in a fleet")
    machines = 20 if most >= 5_000 else 6
    url = postgresql.new_database()
    await live(tmp_path, url, chance, goes_on, hubs=4, machines=machines)


async def live(
    folder: Path,
    url: str,
    chance: random.Random,
    goes_on: GoesOn,
    *,
    hubs: int,
    machines: int,
) -> None:
    """Run a fleet as long as it goes on; each job has run once, and has succeeded."""
    ledger = folder / "ledger"
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                hub(
                    folder / f"hub{number}",
                    port=lasting_port(),
                    lease_s=LEASE_S,
                    patience_s=PATIENCE_S,
                    database_url=url,
                )
            )
            for number in range(hubs)
        ]
        add_machines(url, machines)
        queue = Queue(servers)
        for _ in range(WAITING // 4):
            await queue.submit()
        daemons = [
            start_daemon(
                folder / f"m{number}", f"f{number}", servers[number % hubs].url, ledger
            )
            for number in range(machines)
        ]
        for daemon in daemons:
            stack.callback(daemon.kill)
        fleet = Fleet(hubs=servers, daemons=daemons)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.kill_for_ever, chance)
            while goes_on(queue.submitted, fleet.fewest_kills):
                await queue.submit()
                if queue.submitted - len(queue.ended) > WAITING:
                    await queue.follow()
            while len(queue.ended) < queue.submitted:
                await queue.follow()
            tasks.cancel_scope.cancel()
        for daemon in daemons:
            if daemon.alive:
                await to_thread.run_sync(daemon.stop, signal.SIGTERM, 60)
    print(f"{queue.submitted} jobs, {hubs} hubs, {machines} machines: {fleet.kills}")

    ids = [f"job-{number}" for number in range(queue.submitted)]
    ran = Counter(ledger.read_text().split())
    assert [job for job in queue.ended if ran[job["id"]] != 1] == []
    assert [job for job in queue.ended if job["state"] != "succeeded"] == []
    assert [job["id"] for job in queue.ended] == ids
    assert set(ran) == set(ids)


def add_machines(url: str, count: int) -> None:
    database = Database.open(url)
    for number in range(count):
        name = f"f{number}"
        machine = invited(name, SECRET, fixed=True, license_id="lic-test", now=1.0)
        MachineStore(database).add(machine)
    database.close()


def start_daemon(folder: Path, name: str, url: str, ledger: Path) -> DaemonProcess:
    config = write_config(
        folder,
        url,
        {"it": ["/bin/sh", "-c", RUN]},
        cloud="hold_s = 5\npoll_interval_s = 0.5",
        runs="slots = 2\nqueue_ahead = 2",
        limits=f'env = {{ LEDGER = "{ledger}" }}',
    )
    text = config.read_text().replace("srv-test", name)
    config.write_text(text.replace('level = "debug"', 'level = "warning"'))
    daemon = DaemonProcess(config=config)
    daemon.start()
    return daemon
