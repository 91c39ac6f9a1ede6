"""Each loop of the daemon behind a net of troubles: it goes on, nothing is lost or run twice, a stop ends in time.

Longer, with everything at once: tests/torture/test_hub_calls.py.
"""

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.hub import HubHere
from support.hub import hub as running_hub
from support.licenses import KEY, Issuer, config_lines
from support.machine import row
from support.net import Fault, InTurn, Net, net
from support.torture import few
from support.until import in_time

STOP_S = 30.0
"""How long a stop may take (TimeoutStopSec of systemd/dispatchd.service; seconds)."""

_PASSES = {Fault.SLOW, Fault.LATE, Fault.BEHIND}

WORKFLOW = {
    "it": ["/bin/sh", "-c", "echo x >>$LEDGER; while ! [ -e go ]; do sleep 0.02; done"]
}


def all_faults(of: str) -> list[Fault]:
    """Return each trouble once, in an order of its own for each test."""
    return random.Random(of).sample(list(Fault), k=len(Fault))


def until_one_passes(of: str) -> list[Fault]:
    """Return those after which a call is repeated, and then one of those by which it is made all the same."""
    found = all_faults(of)
    passing = [each for each in found if each in _PASSES]
    return [*(each for each in found if each not in _PASSES), passing[0]]


def is_idle(between: Net) -> bool:
    """Return whether time may move on: no call is under way that nothing befalls, but held polls."""
    return not any(
        each.fault is None and not each.is_answered and b"/pull" not in each.start
        for each in between.passages
    )


@define(kw_only=True)
class Machine:
    """A daemon, the way to its endpoint, and what its runs have written."""

    daemon: DaemonHere
    between: Net
    plan: InTurn
    ledger: Path

    def begun(self) -> int:
        """Return how many runs have begun (count)."""
        return len(self.ledger.read_text().split())

    def let_go(self, job_id: str) -> None:
        (self.daemon.state / "runs" / job_id / "workspace" / "go").touch()

    async def in_time(self, look: Any) -> None:
        await in_time(look, is_idle=lambda: is_idle(self.between), within_s=120)

    async def until_begun(self, times: int = 1) -> None:
        await self.in_time(lambda: self.begun() == times)

    async def through_all(self) -> None:
        """Return once each trouble has been."""
        await self.in_time(lambda: not self.plan.faults)

    async def stops_in_time(self) -> None:
        """Stop the daemon, with time moving on no further than a stop may take."""
        self.daemon.send(signal.SIGTERM)
        for _ in range(10):
            await advance(STOP_S / 10)
        await self.daemon.until_ended(within_s=60)


@asynccontextmanager
async def machine_behind(
    folder: Path,
    port: int,
    wanted: str,
    faults: list[Fault],
    *,
    issuer: Issuer | None = None,
    more: str = "",
    runs: str = "slots = 1\nqueue_ahead = 1",
) -> AsyncIterator[Machine]:
    """Run a daemon whose calls with some words are troubled."""
    plan = InTurn(wanted.encode(), faults)
    ledger = folder / "ledger"
    ledger.touch()
    async with net(port, plan) as between:
        file = write_config(
            folder / "machine",
            between.url(f"http://127.0.0.1:{port}"),
            WORKFLOW,
            cloud="hold_s = 10",
            runs=runs,
            limits=f'env = {{ LEDGER = "{ledger}" }}\n{more}',
        )
        if issuer is not None:
            license_instead(file, issuer)
        async with running_daemon(file) as daemon:
            yield Machine(daemon=daemon, between=between, plan=plan, ledger=ledger)


def license_instead(file: Path, issuer: Issuer) -> None:
    """Let a machine have its identity from a license."""
    lines = [
        line
        for line in file.read_text().splitlines()
        if not line.startswith(("license_id", "server_id", "secret_file"))
    ]
    file.write_text("\n".join([*lines, config_lines(issuer)]))
    file.with_name("key").write_text(f"{KEY}\n")


def job(job_id: str = "j") -> dict[str, Any]:
    return {
        "id": job_id,
        "dag_name": "it",
        "claim_token": f"claim-{job_id}",
        "lease_seconds": 600,
        "extensions": ["heartbeat", "release", "token", "capabilities"],
    }


# Towards a hub, which takes back what it has handed out and nobody has confirmed.


async def ends_once(server: HubHere, machine: Machine, job_id: str) -> None:
    await machine.in_time(lambda: server.has_ended(job_id))
    shown = await row(server, job_id)
    assert shown["state"] == "succeeded"
    assert machine.begun() == 1


@pytest.mark.parametrize("name", few(["accept", "finish", "pull", "heartbeat"], 2))
async def test_a_job_of_a_hub_runs_once_whatever_befalls_the_calls_about_it(
    tmp_path: Path, name: str
) -> None:
    async with running_hub(tmp_path / "hub", most_expiries=20) as server:
        goes_on = name in ("pull", "heartbeat")
        faults = all_faults(name) if goes_on else until_one_passes(name)
        async with machine_behind(
            tmp_path, server.port, f"/{name} ", faults
        ) as machine:
            await server.submit({"id": "j", "dag_name": "it"})
            await machine.until_begun()
            if goes_on:
                await machine.through_all()
            machine.let_go("j")
            await machine.through_all()
            await ends_once(server, machine, "j")


# Towards an endpoint that notes each call.


async def test_a_release_is_repeated_whatever_befalls_it(tmp_path: Path) -> None:
    async with (
        endpoint() as hub,
        machine_behind(
            tmp_path, hub.port, "/release ", until_one_passes("release")
        ) as machine,
    ):
        hub.hand_out(job("runs"))
        await machine.until_begun()
        hub.hand_out(job("later"))
        await machine.daemon.until_logged("job_accept_confirmed", job_id="later")
        await call(machine.daemon, "POST", "/v1/drain", {})
        await machine.through_all()
        await machine.in_time(
            lambda: any(
                each.get("event") == "job_released" for each in machine.daemon.log()
            )
        )
        machine.let_go("runs")
        await hub.until_finished("runs")

    assert machine.begun() == 1
    assert len(hub.calls("accept", "later")) == 1


async def test_a_start_waits_for_its_token_whatever_befalls_that(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        machine_behind(
            tmp_path,
            hub.port,
            "/token ",
            until_one_passes("token"),
            more='github_token = { contents = "read" }\nmax_retries = 9',
        ) as machine,
    ):
        hub.hand_out(job())
        await machine.until_begun()
        machine.let_go("j")
        (told,) = await hub.until_finished("j")

    assert machine.plan.faults == []
    assert told["result_status"] == "succeeded"
    assert machine.begun() == 1


async def test_a_machine_keeps_its_license_whatever_befalls_its_heartbeat(
    tmp_path: Path,
) -> None:
    issuer = Issuer()
    async with endpoint() as hub:
        hub.script = issuer.answer
        async with machine_behind(
            tmp_path, hub.port, "licenses/heartbeat ", [], issuer=issuer
        ) as machine:
            await machine.in_time(lambda: bool(hub.calls("pull")))
            machine.plan.faults += until_one_passes("license")
            # It is due once a day.
            await advance(86_400)

            async def is_through() -> bool:
                if is_idle(machine.between):
                    await advance(10)
                return not machine.plan.faults

            await in_time(is_through, is_idle=lambda: False, within_s=120)
            hub.hand_out(job())
            await machine.until_begun()
            machine.let_go("j")
            await hub.until_finished("j")

    assert machine.begun() == 1


async def test_a_full_machine_hears_of_a_cancel_whatever_befalls_its_question(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        machine_behind(
            tmp_path, hub.port, "/pull ", [], runs="slots = 1\nqueue_ahead = 0"
        ) as machine,
    ):
        hub.hand_out(job())
        await machine.until_begun()
        await hub.until(
            lambda e: any(r.body.get("workflows") == [] for r in e.calls("pull"))
        )
        # All that it asks from now on is for cancel jobs.
        machine.plan.faults += all_faults("cancels")
        await machine.through_all()
        hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        await machine.in_time(lambda: {"j", "c"} <= hub.finished.keys())

    assert hub.finished["j"]["result_status"] == "aborted"
    assert hub.finished["c"]["result_status"] == "succeeded"
    assert machine.begun() == 1


@pytest.mark.parametrize(
    "name",
    few(
        [
            *("pull", "finish", "licenses/heartbeat"),
            *("accept", "heartbeat", "release", "token"),
        ],
        3,
    ),
)
async def test_a_stop_ends_in_its_time_while_a_call_gets_no_answer(
    tmp_path: Path, name: str
) -> None:
    async with endpoint() as hub:
        issuer = Issuer() if name.startswith("licenses") else None
        if issuer is not None:
            hub.script = issuer.answer
        more = 'github_token = { contents = "read" }' if name == "token" else ""
        async with machine_behind(
            tmp_path, hub.port, f"{name} ", [], issuer=issuer, more=more
        ) as machine:
            await hub.until(lambda e: bool(e.calls("pull")))
            machine.plan.faults += [Fault.SILENT] * 100
            left = len(machine.plan.faults)
            await bring_about(machine, hub, name)
            await machine.in_time(lambda: len(machine.plan.faults) < left)
            await machine.stops_in_time()

    assert machine.begun() <= 1


async def bring_about(machine: Machine, hub: Endpoint, name: str) -> None:
    """Let a daemon make a call."""
    if name in ("pull", "licenses/heartbeat"):
        if name != "pull":
            # It is due twice a day.
            await advance(86_400)
        return
    hub.hand_out(job())
    if name in ("finish", "release"):
        await machine.until_begun()
    if name == "finish":
        machine.let_go("j")
    if name == "release":
        hub.hand_out(job("later"))
        await machine.daemon.until_logged("job_accept_confirmed", job_id="later")
        await call(machine.daemon, "POST", "/v1/drain", {})
