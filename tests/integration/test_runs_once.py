"""A job that a machine runs is run once, by real daemons, whatever becomes of their hub meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from attrs import frozen

from dispatchd.hub.storage.database import Database
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.hub import HubHere, hub
from support.machine import row
from support.torture import few
from support.until import in_time, until

AWAY_S = 600.0
"""Time for which the hub is away (seconds): longer than a lease and its patience."""

COMMAND = "echo ran >>{folder}/ran; while ! [ -e {folder}/go ]; do sleep 0.05; done"


@frozen
class Site:
    """A hub, and two daemons that would take any job."""

    folder: Path
    server: HubHere
    daemons: tuple[DaemonHere, ...]

    @property
    def runs(self) -> int:
        ran = self.folder / "ran"
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    async def is_running(self) -> bool:
        return bool((await row(self.server, "j"))["state"] == "running")

    async def has_ended(self) -> bool:
        return bool((await row(self.server, "j"))["ended"])


@pytest.fixture
async def site(tmp_path: Path, database_url: str) -> AsyncIterator[Site]:
    command = ["/bin/sh", "-c", COMMAND.format(folder=tmp_path)]
    async with hub(tmp_path / "hub", database_url=database_url) as server:
        configs = [_config(tmp_path / name, server.url, command) for name in NAMES]
        async with (
            running_daemon(configs[0]) as first,
            running_daemon(configs[1]) as second,
        ):
            yield Site(tmp_path, server, (first, second))


NAMES = ("m1", "m2")


def _config(folder: Path, url: str, command: list[str]) -> Path:
    config = write_config(folder, url, {"it": command}, runs="inactivity_s = 0")
    config.write_text(config.read_text().replace("srv-test", folder.name))
    return config


async def down(site: Site) -> None:
    await site.server.stop()
    await advance(AWAY_S)
    await site.server.start()


async def asleep(site: Site) -> None:
    await site.server.stand_still(AWAY_S)


async def with_another_clock(site: Site) -> None:
    site.server.time.wall_set_by_s += AWAY_S


async def without_its_database(site: Site) -> None:
    if not site.server.database_url.startswith("sqlite"):
        pytest.skip("a lock of one file")
    blocker = Database.open(f"sqlite:///{site.server.folder / 'hub.db'}")
    try:
        with blocker.transaction():
            await advance(AWAY_S)
            await until(lambda: "database_busy" in site.server.log_file.read_text(), 60)
    finally:
        blocker.close()


@pytest.mark.parametrize(
    "away", few([down, without_its_database, asleep, with_another_clock], 2)
)
async def test_a_job_runs_once_while_its_hub_is_away(
    site: Site, away: Callable[[Site], Awaitable[None]]
) -> None:
    await site.server.submit({"id": "j", "dag_name": "it"})
    await in_time(site.is_running)
    # Before its command has begun, a start would be undone.
    await until(lambda: site.runs == 1)
    await away(site)
    # Its machine is heard of again, and a whole lease goes by.
    await in_time(site.is_running)
    # In small steps, so that heartbeats come in time.
    for _ in range(60):
        await advance(site.server.lease_s / 60)
        assert await site.is_running()
    (site.folder / "go").touch()
    await in_time(site.has_ended)

    job = await row(site.server, "j")
    assert (job["state"], job["deliveries"], site.runs) == ("succeeded", 1, 1)
    assert not any(daemon.bugs.met for daemon in site.daemons)
