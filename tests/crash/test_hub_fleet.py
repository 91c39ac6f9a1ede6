"""Several hubs on one PostgreSQL, many machines, and kills of both at random: each job runs and finishes once.

The promise is for four hubs, twenty machines and 10,000 jobs. That takes minutes, so the suite runs a smaller fleet;
DISPATCHD_FLEET_JOBS=10000 pytest -s tests/crash/test_hub_fleet.py runs the whole one.
"""

import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from attrs import frozen
from bench.postgres import Postgres

from dispatchd.hub.database import Database
from dispatchd.hub.job_reader import JobReader
from dispatchd.hub.machine_store import MachineStore
from dispatchd.hub.machines import invited
from dispatchd.hub.model import State
from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.endpoint import SECRET
from support.hub_process import HubProcess, hub
from support.machine import JOBS as JOBS_PATH

JOBS = int(os.environ.get("DISPATCHD_FLEET_JOBS", "400"))
HUBS = 4
MACHINES = 20 if JOBS >= 5_000 else 6
SEED = 20261121
LEASE_S = 6.0
PATIENCE_S = 120.0
"""Longer than a killed daemon is away: what runs is its own."""

RUN = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"'
"""Appended in one write(2) (O_APPEND), so that the lines of many runs don't mix."""


@frozen(kw_only=True)
class Fleet:
    """Everything that may be killed."""

    hubs: list[HubProcess]
    daemons: list[DaemonProcess]

    async def kill_for_ever(self, rng: random.Random, kills: Counter[str]) -> None:
        """Kill one after the other at random, and start it again."""
        for kind in cycle(("hub", "daemon")):
            # The kills come at moments that nothing announces.
            await anyio.sleep(rng.uniform(0.1, 0.8))
            if kind == "hub":
                one = rng.choice(self.hubs)
                one.kill()
                with anyio.CancelScope(shield=True):
                    await one.start()
            else:
                daemon = rng.choice(self.daemons)
                daemon.kill()
                daemon.start()
            kills[kind] += 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_each_job_runs_and_finishes_once_whoever_is_killed(
    tmp_path: Path, postgresql: Postgres
) -> None:
    url, ledger = postgresql.new_database(), tmp_path / "ledger"
    kills: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        hubs = [
            await stack.enter_async_context(
                hub(
                    tmp_path / f"hub{number}",
                    lease_s=LEASE_S,
                    patience_s=PATIENCE_S,
                    database_url=url,
                )
            )
            for number in range(HUBS)
        ]
        add_machines(url)
        await submit_all(hubs)
        daemons = [
            start_daemon(tmp_path / f"m{number}", f"f{number}", hubs, ledger)
            for number in range(MACHINES)
        ]
        for daemon in daemons:
            stack.callback(daemon.kill)
        fleet = Fleet(hubs=hubs, daemons=daemons)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.kill_for_ever, random.Random(SEED), kills)
            await until_all_ended(url)
            tasks.cancel_scope.cancel()
        rows = await all_jobs(hubs[0])
        for daemon in daemons:
            if daemon.alive:
                await to_thread.run_sync(daemon.stop, signal.SIGTERM, 60)
    print(f"{JOBS} jobs, {HUBS} hubs, {MACHINES} machines, killed: {dict(kills)}")

    ids = [f"job-{number}" for number in range(JOBS)]
    assert Counter(ledger.read_text().split()) == dict.fromkeys(ids, 1)
    assert {job["id"]: job["state"] for job in rows} == dict.fromkeys(ids, "succeeded")
    assert min(kills["hub"], kills["daemon"]) >= 3


def add_machines(url: str) -> None:
    database = Database.open(url)
    for number in range(MACHINES):
        name = f"f{number}"
        machine = invited(name, SECRET, fixed=True, license_id="lic-test", now=1.0)
        MachineStore(database).add(machine)
    database.close()


def start_daemon(
    folder: Path, name: str, hubs: list[HubProcess], ledger: Path
) -> DaemonProcess:
    url = hubs[int(name[1:]) % len(hubs)].url
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


async def submit_all(hubs: list[HubProcess]) -> None:
    async def submit(first: int) -> None:
        server = hubs[first]
        for number in range(first, JOBS, HUBS):
            await server.submit({"id": f"job-{number}", "dag_name": "it"})

    async with anyio.create_task_group() as tasks:
        for number in range(HUBS):
            tasks.start_soon(submit, number)


async def until_all_ended(url: str) -> None:
    """Wait until the database has no job that hasn't ended."""
    database = Database.open(url)
    reader = JobReader(database)
    try:
        while True:
            counts = await to_thread.run_sync(reader.counts)
            if counts[State.SUCCEEDED] + counts[State.FAILED] >= JOBS:
                return
            # Other processes' work, of which no event comes here.
            await anyio.sleep(0.5)
    finally:
        database.close()


async def all_jobs(server: HubProcess) -> list[dict[str, Any]]:
    return [
        (await server.http.get(f"{JOBS_PATH}/job-{number}")).json()
        for number in range(JOBS)
    ]
