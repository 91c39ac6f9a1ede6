"""A hub that is restored from a backup, and what GitHub has sent since then: nothing runs again by itself."""

from pathlib import Path
from typing import Any

import pytest

from support.cli import command
from support.deliveries_api import DeliveriesApi, deliveries_api
from support.github_events import real
from support.github_hub import deliveries, jobs
from support.hub_process import HubProcess
from support.machine import Machine
from support.polling import ISSUES, config, polling_hub
from support.torture import few

OPENED = real("issues/17-opened")


async def ended(machine: Machine) -> list[str]:
    """Run every job that the hub hands out, and return their ids."""
    found = []
    while (reply := await machine.ask()).status_code == 200:
        job: dict[str, Any] = reply.json()
        found.append(job["id"])
        await machine.call(
            "finish",
            job["id"],
            claim_token=job["claim_token"],
            result_status="succeeded",
        )
    return found


async def lost_a_day(folder: Path, api: DeliveriesApi) -> list[str]:
    """Back a hub up, let it run what comes after that, and return the ids of those jobs."""
    async with polling_hub(folder / "first", api, rules=ISSUES) as server:
        await api.sweeps()
        file = str(server.folder / "hub.toml")
        said = await command("hub", "backup", str(folder / "night"), "--config", file)
        assert said.returncode == 0, said.stderr
        entries = [api.add("issues", OPENED, ago_s=500) for _ in range(3)]
        await api.until(lambda: all(api.fetched[each.guid] for each in entries))
        await api.sweeps()
        ran = await ended(Machine(http=server.http))
    assert len(ran) == 3
    return ran


@pytest.mark.parametrize("events", few(["", "skip", "run"], 2))
async def test_what_has_run_since_the_backup_is_recognised_or_left_to_the_owner(
    tmp_path: Path, events: str
) -> None:
    async with deliveries_api() as api:
        ran = await lost_a_day(tmp_path, api)
        folder, file = tmp_path / "second", str(tmp_path / "night")
        said = await command("hub", "init", str(folder))
        assert said.returncode == 0, said.stderr
        said = await command(
            *("hub", "restore", file, "--config", str(folder / "hub.toml")),
            *(["--events", events] if events else []),
        )
        assert said.returncode == 0, said.stderr

        of_hub = HubProcess(folder=folder, more=config(api, rules=ISSUES))
        of_hub.configure('listen = "127.0.0.1:0"')

        async with polling_hub(folder, api, rules=ISSUES) as server:
            await api.sweeps(2)
            known = await deliveries(server)
            waiting = [each["id"] for each in await jobs(server)]
            machine = Machine(http=server.http)
            taken = await ended(machine)
            await server.http.post("/api/v1/dispatch/resume")
            resumed = await ended(machine)

    assert len(known) == 3
    if events == "skip":
        assert {each["state"] for each in known} == {"ignored"}
        assert (waiting, taken, resumed) == ([], [], [])
        return
    # Under the same ids, so that a machine that has had them repeats their results.
    assert waiting == ran
    assert (taken, resumed) == ((ran, []) if events else ([], ran))
