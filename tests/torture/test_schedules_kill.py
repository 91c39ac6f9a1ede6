"""The hub is killed with SIGKILL between any two steps from its start until a schedule has fired: each run is one job."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatchd.hub.config.load import FILE, load
from dispatchd.hub.domain.schedules.plan import Plan
from dispatchd.hub.domain.schedules.progress import Progress
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.schedules import ScheduleStore
from support.hub_process import HubProcess
from support.kill_hub import MARK, spare
from support.torture import POSTGRESQL, Sweep, lasting_port
from support.until import until

AGO_S = 7200

FIRING = Sweep(least=5, most=8)
FIRING_POSTGRESQL = Sweep(database=POSTGRESQL, least=110, most=190)


def due_two_hours_ago() -> Plan:
    """Return a plan that was due two hours ago, and is due again in a year."""
    due = datetime.fromtimestamp(time.time() - AGO_S, UTC)
    return Plan(cron=f"{due.minute} {due.hour} {due.day} {due.month} *", timezone="UTC")


def stored(database: Database) -> tuple[list[str], Progress]:
    """Return the ids of all jobs, and the progress of the schedule."""
    ids = [job.id for job in JobReader(database).list(Filter(limit=10))]
    return ids, Progress.read(ScheduleStore(database).texts()["s"])


async def fire_despite_a_kill(
    folder: Path, url: str, library: Path, sweep: Sweep, step: int
) -> None:
    plan = due_two_hours_ago()
    table = f'[[schedules]]\nname = "s"\nworkflow = "ci"\ncron = "{plan.cron}"\n'
    mark = folder / "hub" / MARK
    env = {"LD_PRELOAD": str(library), "KILL_AT": str(step), "KILL_ARMED": str(mark)}
    server = HubProcess(
        folder=folder / "hub",
        port=lasting_port(),
        database_url=url,
        more=table,
        env=env,
    )
    server.make()
    settings = load(server.folder / FILE)
    with closing(Database.open(settings.database_url)) as database:
        ScheduleStore(database).begin({"s": plan}, now=time.time() - 2 * AGO_S)
        mark.touch()
        killed = False
        try:
            await server.start()
            await until(
                lambda: server.process.poll() is not None or stored(database)[0], 60
            )
            # Steps after the commit: its line in the log, and the next look.
            await until(
                lambda: (
                    server.process.poll() is not None
                    or "schedule_caught_up" in server.log_file.read_text()
                ),
                60,
            )
        except AssertionError:
            assert server.process.wait() == -9
        if server.process.poll() is not None:
            assert server.process.wait() == -9
            killed = True
            ids, progress = stored(database)
            # Both or neither.
            assert len(ids) == bool(progress.due_at)
            spare(server)
            await server.start()
        try:
            await until(lambda: stored(database)[0], 60)
            server.kill()
            await server.start()
            server.stop()
            ids, progress = stored(database)
        finally:
            server.kill()
        assert ids == [progress.job_id]
        lines = server.log_file.read_text().splitlines()
        said = [json.loads(line) for line in lines if "schedule_caught_up" in line]
        assert len(said) <= 1
    sweep.require(step, killed=killed)


@pytest.mark.parametrize(
    ("sweep", "step"), [*FIRING.smoke(1, 3, 5), *FIRING_POSTGRESQL.smoke(30, 105)]
)
async def test_a_schedule_fires_once_though_the_hub_is_killed_at_a_few_steps(
    tmp_path: Path,
    url_for: Callable[[Sweep], str],
    kill_hub: Path,
    sweep: Sweep,
    step: int,
) -> None:
    await fire_despite_a_kill(tmp_path, url_for(sweep), kill_hub, sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"), [*FIRING.every_step(), *FIRING_POSTGRESQL.every_step()]
)
async def test_a_schedule_fires_once_though_the_hub_is_killed_at_any_step(
    tmp_path: Path,
    url_for: Callable[[Sweep], str],
    kill_hub: Path,
    sweep: Sweep,
    step: int,
) -> None:
    await fire_despite_a_kill(tmp_path, url_for(sweep), kill_hub, sweep, step)
