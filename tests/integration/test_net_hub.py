"""Each loop of the hub behind a net of troubles: it goes on, nothing is lost or told twice, a stop ends in its time.

How its listener gets on is in test_hub_wake_ups.py; calls are in test_hub_silent_database.py. Longer, with
everything at once: tests/torture/test_hub_calls.py.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attrs import define
from bench.postgres import Postgres

from support.checks import ChecksHub, checks_hub
from support.clock import advance
from support.deliveries_api import DeliveriesApi, deliveries_api
from support.github_api import GithubApi, github_api
from support.github_events import pull_request
from support.github_hub import jobs
from support.hub import HubHere, hub
from support.machine import JOBS, Machine, row
from support.net import Fault, InTurn, Net, net, net_of_its_own
from support.polling import polling_hub
from support.until import in_time, until

DAY_S = 86_400.0
STOP_S = 30.0
"""How long a stop may take (TimeoutStopSec of systemd/dispatchd-hub.service; seconds)."""


def all_faults(of: str) -> list[Fault]:
    """Return each trouble once, in an order of its own for each test."""
    return random.Random(of).sample(list(Fault), k=len(Fault))


def is_idle(between: Net) -> bool:
    """Return whether time may move on: nothing is under way that nothing befalls."""
    return not any(
        each.fault is None and not each.is_answered for each in between.passages
    )


async def stops_in_time(server: HubHere) -> None:
    """Stop a hub, with time moving on no further than a stop may take."""
    for _ in range(10):
        await advance(STOP_S / 10)
    await server.stop(within_s=60)


# Towards GitHub.


@asynccontextmanager
async def publishing(
    folder: Path, plan: InTurn
) -> AsyncIterator[tuple[ChecksHub[HubHere], GithubApi, Net]]:
    async with github_api() as github, net(github.port, plan) as between:
        # The hub finds it by way of the net.
        github.port = between.port
        async with checks_hub(folder, github) as found:
            yield found, github, between


async def test_github_is_told_of_each_job_once_whatever_befalls_the_calls(
    tmp_path: Path,
) -> None:
    plan = InTurn(b"/check-runs", all_faults("checks"))
    made = 0
    async with publishing(tmp_path, plan) as (found, github, between):

        async def is_told() -> bool:
            nonlocal made
            if found.store.pending_count()[0]:
                return False
            if made >= 3 and not plan.faults:
                return True
            found.add(f"j{made}")
            made += 1
            held = await found.pull()
            await held.accept()
            await held.finish()
            return False

        await in_time(is_told, is_idle=lambda: is_idle(between), within_s=120)
        names = [each["external_id"] for each in github.runs.values()]
        conclusions = {each["conclusion"] for each in github.runs.values()}

    assert sorted(names) == sorted(f"j{number}" for number in range(made))
    assert conclusions == {"success"}


async def test_a_stop_does_not_wait_for_a_github_that_says_nothing(
    tmp_path: Path,
) -> None:
    plan = InTurn(b"/check-runs", [Fault.SILENT] * 100)
    async with publishing(tmp_path, plan) as (found, _, _between):
        found.add("j")
        await until(lambda: len(plan.faults) < 100)
        await stops_in_time(found.server)


@asynccontextmanager
async def fetching(
    folder: Path, plan: InTurn
) -> AsyncIterator[tuple[HubHere, DeliveriesApi, Net]]:
    async with deliveries_api() as api, net(api.port, plan) as between:
        api.port = between.port
        async with polling_hub(folder, api) as server:
            yield server, api, between


async def test_each_event_is_fetched_and_makes_its_jobs_once_whatever_befalls_the_calls(
    tmp_path: Path,
) -> None:
    plan = InTurn(b"/app/hook/deliveries", all_faults("list"))
    async with fetching(tmp_path / "hub", plan) as (server, api, between):
        guids = [
            api.add("pull_request", pull_request(), ago_s=number).guid
            for number in range(4)
        ]

        async def is_fetched() -> bool:
            if plan.faults:
                return False
            found = {each["delivery_id"] for each in await jobs(server)}
            return found == set(guids)

        await in_time(is_fetched, is_idle=lambda: is_idle(between), within_s=120)
        made = [(each["delivery_id"], each["dag_name"]) for each in await jobs(server)]

    assert sorted(made) == sorted(
        (guid, name) for guid in guids for name in ("ci", "lint")
    )


async def test_a_stop_does_not_wait_for_a_list_of_deliveries_that_never_comes(
    tmp_path: Path,
) -> None:
    plan = InTurn(b"/app/hook/deliveries", [Fault.SILENT] * 100)
    async with fetching(tmp_path / "hub", plan) as (server, _, _between):
        await until(lambda: len(plan.faults) < 100)
        await stops_in_time(server)


# Towards the database.


@define(kw_only=True)
class Cut:
    """A hub whose database can be out of reach."""

    server: HubHere
    between: Net

    async def away(self) -> None:
        """Let the connections go silent, and return once a loop has noticed; new ones are as they were."""
        before = self._busy()
        self.between.go_silent()
        await until(lambda: self._busy() > before, 120)
        self.between.are_new_silent = False

    def _busy(self) -> int:
        return self.server.log_file.read_text().count("database_busy")


@asynccontextmanager
async def cut_off(
    folder: Path, postgresql: Postgres, url: str, more: str = ""
) -> AsyncIterator[Cut]:
    with net_of_its_own(postgresql.port) as between:
        async with hub(folder, database_url=between.url(url), more=more) as server:
            yield Cut(server=server, between=between)


@pytest.mark.host
async def test_a_lease_that_ended_while_the_database_was_silent_is_taken_back(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with cut_off(tmp_path, postgresql, postgresql_url) as cut:
        server = cut.server
        await server.submit({"id": "j", "dag_name": "ci"})
        held = await Machine(http=server.http).pull()
        await cut.away()
        await advance(server.lease_s + 5)

        async def is_queued() -> bool:
            return (await row(server, "j")).get("state") == "queued"

        await in_time(is_queued, within_s=120)
        (again,) = [await Machine(http=server.http, name="a").pull()]
        late = await held.accept()

    assert again.id == "j"
    assert late.status_code == 409


@pytest.mark.host
async def test_what_is_old_is_forgotten_once_the_database_is_back(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with cut_off(tmp_path, postgresql, postgresql_url) as cut:
        server = cut.server
        await server.submit({"id": "j", "dag_name": "ci"})
        await (await Machine(http=server.http).pull()).finish()
        await cut.away()
        await advance(40 * DAY_S)

        async def is_gone() -> bool:
            reply = await server.http.get(f"{JOBS}/j")
            if reply.status_code == 200:
                # The next round of the loop is due once an hour.
                await advance(3600)
            return reply.status_code == 404

        await until(is_gone, 120)


@pytest.mark.host
async def test_a_hub_that_listens_hears_again_after_each_trouble(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    # What it asks after each silence on the connection that listens.
    plan = InTurn(b"SELECT 1", all_faults("listener"))
    with net_of_its_own(postgresql.port, plan, late_s=3.0) as between:
        async with (
            hub(tmp_path / "one", database_url=between.url(postgresql_url)) as one,
            hub(tmp_path / "other", database_url=postgresql_url) as other,
        ):
            await until(lambda: not plan.faults, 120)
            pulled = []
            for _ in range(3):
                job_id = await other.submit({"dag_name": "ci"})
                pulled.append(
                    (await Machine(http=one.http).pull(wait="60")).id == job_id
                )

    assert pulled == [True] * 3
