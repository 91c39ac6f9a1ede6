"""Schedules of a hub: each due run is one job, whatever happens to the hub, its clock and its configuration."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, Engine, event, func, select

from dispatchd.hub.config.load import FILE
from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.domain.schedules.plan import Plan
from dispatchd.hub.domain.schedules.progress import Due, Progress, fired
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.queue.schedules import goes_by, submission_of
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.schedules import ScheduleStore
from dispatchd.hub.storage.schema import JOBS
from dispatchd.protocol.contracts import check
from support.cli import command
from support.clock import advance
from support.hub import HubHere, hub
from support.hub_process import HubProcess
from support.machine import Machine
from support.threads import at_once
from support.until import until

MINUTELY = """
[[schedules]]
name = "minutely"
cron = "* * * * *"
workflow = "ci"
repository = "o/r"
ref = "refs/heads/main"
inputs = { level = "full" }
"""
NIGHTLY = """
[[schedules]]
name = "nightly"
cron = "30 2 * * *"
timezone = "Europe/Berlin"
workflow = "backup"
"""
HOURLY = MINUTELY.replace("* * * * *", "30 * * * *")
DAILY = NIGHTLY.replace("30 2", "30 21").replace("Europe/Berlin", "UTC")


def until_ten_s() -> float:
    """Return how long it takes until ten o'clock of tomorrow (UTC, seconds).

    A hub that is ahead by that starts at ten, whenever its test runs: no run of an hourly schedule is due soon.
    """
    now = datetime.now(UTC)
    ten = now.replace(hour=10, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (ten - now).total_seconds()


async def jobs(server: HubHere) -> list[str]:
    """Return the ids of all jobs of schedules, the oldest first."""
    reply = await server.http.get("/api/v1/jobs?limit=1000")
    ids = [job["id"] for job in reply.json()["jobs"]]
    return [each for each in ids if each.startswith("schedule-")]


async def listed(server: HubHere) -> list[dict[str, Any]]:
    reply = await server.http.get("/api/v1/schedules")
    found: list[dict[str, Any]] = reply.json()["schedules"]
    for each in found:
        check("hub-schedule", each)
    return found


def progress_of(server: HubHere, name: str) -> Progress | None:
    text = server.context.stores.schedules.texts().get(name)
    return None if text is None else Progress.read(text)


async def settles(server: HubHere, name: str) -> None:
    """Return once all that is due by now is decided, and nothing is decided that isn't due."""

    def is_settled() -> bool:
        progress = progress_of(server, name)
        if progress is None:
            return False
        now = server.context.now()
        return progress.until <= now + 1 and not progress.plan.newest(
            progress.until, now
        )

    # Looks come every 5 s at least.
    for _ in range(3):
        await advance(5)
        await until(is_settled)


async def passes(server: HubHere, name: str, seconds: float, step_s: float) -> None:
    """Let time pass in steps."""
    for _ in range(int(seconds / step_s)):
        await advance(step_s - 15)
        await settles(server, name)


async def overdue_s(server: HubHere) -> float:
    text = (await server.http.get("/metrics")).text
    name = "dispatchd_hub_schedule_overdue_seconds "
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


def set_clock(server: HubHere, text: str) -> None:
    """Set the hub's clock to a time in UTC."""
    wanted = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    server.time.wall_set_by_s += wanted - server.time.wall()


def log(server: HubHere) -> list[dict[str, Any]]:
    lines = server.log_file.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in found if str(each["event"]).startswith("schedule_")]


@asynccontextmanager
async def scheduled(
    folder: Path, more: str = MINUTELY, **options: Any
) -> AsyncIterator[HubHere]:
    async with hub(folder / "hub", more=more, **options) as server:
        names = [each.name for each in server.context.settings.schedules]
        await until(lambda: set(server.context.stores.schedules.texts()) == {*names})
        yield server


async def test_a_due_run_is_a_job_that_a_machine_gets(
    tmp_path: Path, database_url: str
) -> None:
    async with scheduled(tmp_path, database_url=database_url) as server:
        [before] = await listed(server)
        set_clock(server, "2030-05-05T10:00:05")
        await settles(server, "minutely")
        first = await jobs(server)
        await advance(45)
        await settles(server, "minutely")
        second = await jobs(server)
        machine = Machine(http=server.http)
        held = [await machine.pull() for _ in second]
        [after] = await listed(server)

    assert (before["due_at"], before["job_id"], before["state"]) == (0, "", "active")
    assert first == ["schedule-minutely-20300505T100000Z"]
    assert second == [*first, "schedule-minutely-20300505T100100Z"]
    job = held[1].job
    assert (job["dag_name"], job["event_name"]) == ("ci", "schedule")
    assert (job["repository_name"], job["ref"]) == ("o/r", "refs/heads/main")
    assert job["payload"] == {
        "schedule": "* * * * *",
        "name": "minutely",
        "timezone": "UTC",
        "due_at": "2030-05-05T10:01:00Z",
        "missed": 0,
        "inputs": {"level": "full"},
    }
    assert after["job_id"] == second[1]
    assert after["next_at"] == after["due_at"] + 60


async def test_what_was_missed_is_told_and_caught_up_once(
    tmp_path: Path, database_url: str
) -> None:
    thrice = MINUTELY.replace("* * * * *", "10-59/20 * * * *")
    options = {"database_url": database_url, "ahead_s": until_ten_s()}
    async with scheduled(tmp_path, thrice, **options) as server:
        await server.stop()
        await advance(3 * 3600)
        await server.start()
        await until(lambda: "schedule_caught_up" in server.log_file.read_text())
        await settles(server, "minutely")
        found = await jobs(server)
        [shown] = await listed(server)
        machine = Machine(http=server.http)
        payload = (await machine.pull()).job["payload"]
        [said] = [each for each in log(server) if each["event"] == "schedule_caught_up"]

    assert found == [said["job_id"]]
    assert said["missed"] == shown["missed"] == payload["missed"] == 8
    assert found[0].endswith("T125000Z")
    assert (said["level"], said["schedule"]) == ("warning", "minutely")


async def test_runs_that_are_due_at_once_share_commits(tmp_path: Path) -> None:
    count = 64
    table = '[[schedules]]\nname = "s{}"\ncron = "{}"\nworkflow = "ci"\n'
    cron = "30 21 * * *"
    commits: list[int] = []

    def note(connection: Connection) -> None:
        made = select(func.count()).where(JOBS.c.id.startswith("schedule-"))
        commits.append(connection.execute(made).scalar_one())

    async def all_are_made() -> bool:
        return len(await jobs(server)) == count

    more = "".join(table.format(number, cron) for number in range(count))
    async with scheduled(tmp_path, more, ahead_s=until_ten_s()) as server:
        event.listen(Engine, "commit", note)
        try:
            await advance(86_400)
            await advance(5)
            await until(all_are_made)
        finally:
            event.remove(Engine, "commit", note)

    # Of each commit the jobs that are there by then.
    assert len(set(commits) - {0}) <= count / 4


@pytest.mark.torture(least_s=60)
async def test_a_clock_set_back_by_an_hour_makes_no_second_job_and_loses_none(
    tmp_path: Path, database_url: str
) -> None:
    quarterly = MINUTELY.replace("* * * * *", "*/15 * * * *")
    async with scheduled(tmp_path, quarterly, database_url=database_url) as server:
        set_clock(server, "2030-05-05T09:50:00")
        await settles(server, "minutely")
        before = await jobs(server)
        await passes(server, "minutely", 3600, 300)
        server.time.wall_set_by_s -= 3600
        await settles(server, "minutely")
        await passes(server, "minutely", 2 * 3600, 300)
        found = await jobs(server)
        events = [each["event"] for each in log(server)]

    hours = [f"{hour:02}{minute:02}" for hour in (10, 11) for minute in (0, 15, 30, 45)]
    ids = [f"schedule-minutely-20300505T{each}00Z" for each in hours]
    assert found[len(before) :][:8] == ids
    assert events.count("schedule_clock_set_back") == 1
    assert events.count("schedule_job_exists") == 4


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2031-03-29T12:00:00", ["20310330T010000Z", "20310331T003000Z"]),
        ("2031-10-25T12:00:00", ["20311026T003000Z", "20311027T013000Z"]),
    ],
)
async def test_a_night_of_a_change_of_summer_time_has_one_run(
    tmp_path: Path, start: str, expected: list[str]
) -> None:
    async with scheduled(tmp_path, NIGHTLY) as server:
        set_clock(server, start)
        await settles(server, "nightly")
        before = await jobs(server)
        await passes(server, "nightly", 42 * 3600, 1800)
        found = await jobs(server)

    assert found == [*before, *(f"schedule-nightly-{each}" for each in expected)]


async def test_a_changed_disabled_or_removed_schedule_makes_no_run_of_before(
    tmp_path: Path,
) -> None:
    both = MINUTELY + NIGHTLY
    async with scheduled(tmp_path, both) as server:

        def told(event: str) -> int:
            found = [(each["event"], each["schedule"]) for each in log(server)]
            return found.count((event, "nightly"))

        async def restarted(more: str, event: str, times: int) -> None:
            await server.stop()
            await advance(86_400)
            server.more = more
            server.configure()
            await server.start()
            await until(lambda: told(event) == times)
            await advance(6)

        await restarted(
            both.replace("30 2", "30 3") + "enabled = false\n", "schedule_changed", 1
        )
        states = [each["state"] for each in await listed(server)]
        off = [each for each in await jobs(server) if "nightly" in each]
        await restarted(both.replace("30 2", "30 3"), "schedule_changed", 2)
        again = [each for each in await jobs(server) if "nightly" in each]
        await restarted(MINUTELY, "schedule_removed", 1)
        names = [each["name"] for each in await listed(server)]

    assert states == ["active", "disabled"]
    assert (off, again, names) == ([], [], ["minutely"])


async def test_a_full_queue_makes_a_run_wait_and_loses_none(tmp_path: Path) -> None:
    full = "[queue]\nmost = 1\n" + DAILY
    async with scheduled(tmp_path, full, ahead_s=until_ten_s()) as server:
        await server.submit({"id": "first", "dag_name": "ci"})
        await advance(86_400)
        await until(lambda: "schedule_waits" in server.log_file.read_text())
        await advance(10)
        waiting = await jobs(server)
        overdue = await overdue_s(server)
        machine = Machine(http=server.http)
        held = await machine.pull()
        await settles(server, "nightly")
        found = await jobs(server)
        waits = [each for each in log(server) if each["event"] == "schedule_waits"]
        caught_up = await overdue_s(server)

    assert (overdue > 0, caught_up) == (True, 0)
    assert (held.id, waiting, len(found)) == ("first", [], 1)
    assert [each["reason"] for each in waits] == ["the queue is full (queue.most = 1)"]


async def test_a_run_that_meets_no_database_is_made_later_and_once(
    tmp_path: Path,
) -> None:
    async with scheduled(tmp_path, DAILY, ahead_s=until_ten_s()) as server:
        file = server.folder / "hub.db"
        file.rename(file.with_name("aside.db"))
        await advance(86_400)
        await until(lambda: "database_busy" in server.log_file.read_text())
        await advance(10)
        file.with_name("aside.db").rename(file)
        await settles(server, "nightly")
        found = await jobs(server)
        said = server.log_file.read_text()

    assert len(found) == 1
    assert "bug_contained" not in said


async def test_nobody_takes_the_id_of_a_run_before_it(tmp_path: Path) -> None:
    taken = {"id": "schedule-nightly-20990101T013000Z", "dag_name": "other"}
    free = [
        {**taken, "id": "schedule-nightly-2099"},
        {**taken, "id": "schedule-other-20990101T013000Z"},
    ]
    async with scheduled(tmp_path, NIGHTLY) as server:
        refused = await server.http.post("/api/v1/jobs", json=taken)
        others = [
            (await server.http.post("/api/v1/jobs", json=each)).status_code
            for each in free
        ]

        await server.http.post(f"/api/v1/jobs/{free[0]['id']}/cancel")
        again = await server.http.post(
            f"/api/v1/jobs/{free[0]['id']}/requeue", params={"new_id": taken["id"]}
        )

    for each in (refused, again):
        assert each.status_code == 409
        assert "for the schedule nightly" in each.json()["message"]
    assert others == [201, 201]


async def test_jobs_are_queued_on_time_while_dispatch_is_paused(tmp_path: Path) -> None:
    async with scheduled(tmp_path) as server:
        await server.http.post("/api/v1/dispatch/pause", json={})
        for _ in range(2):
            await advance(60)
            await settles(server, "minutely")
        found = await jobs(server)
        reply = await Machine(http=server.http).ask()

    assert len(found) >= 2
    assert reply.status_code == 204


@pytest.mark.parametrize("events", ["look", "skip"])
async def test_a_restored_hub_catches_up_once_or_not_at_all(
    tmp_path: Path, events: str
) -> None:
    backup = str(tmp_path / "night")
    async with scheduled(tmp_path, NIGHTLY) as server:
        set_clock(server, "2020-05-05T12:00:00")
        await settles(server, "nightly")
        said = await command(
            "hub", "backup", backup, "--config", str(server.folder / FILE)
        )
        assert said.returncode == 0, said.stderr
        await server.stop()
        server.folder = tmp_path / "new"
        said = await command("hub", "init", str(server.folder))
        assert said.returncode == 0, said.stderr
        server.configure()
        said = await command(
            *("hub", "restore", backup, "--config", str(server.folder / FILE)),
            *(["--events", "skip"] if events == "skip" else []),
        )
        assert said.returncode == 0, said.stderr
        await server.start()
        await settles(server, "nightly")
        await settles(server, "nightly")
        found = await jobs(server)
        waiting = (await server.http.get("/api/v1/dispatch")).json()["paused"]

    assert len(found) == (1 if events == "look" else 0)
    assert waiting is (events == "look")


async def test_the_owner_sees_schedules_by_a_command(tmp_path: Path) -> None:
    more = HOURLY + NIGHTLY
    async with scheduled(tmp_path, more, ahead_s=until_ten_s()) as server:
        await advance(3600)
        await settles(server, "minutely")
        config = ("--config", str(server.folder / FILE))
        said = await command("hub", "schedules", *config)
        as_json = await command("hub", "schedules", "--json", *config)
        shown = await listed(server)

    title, first, second = said.stdout.splitlines()
    assert title.split() == ["SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "JOB"]
    assert first.split()[:7] == ["minutely", "30", *"****", "UTC"]
    assert shown[0]["job_id"] in first
    assert "Europe/Berlin" in second
    assert json.loads(as_json.stdout) == shown


async def test_a_hub_without_schedules_says_so(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as server:
        config = ("--config", str(server.folder / FILE))
        said = await command("hub", "schedules", *config)
        nobody = await server.http.get(
            "/api/v1/schedules", headers={"authorization": ""}
        )

    assert said.stdout.startswith("No schedules. Add [[schedules]] to hub.toml")
    assert nobody.status_code == 401


def test_of_many_that_decide_at_once_one_makes_the_job(database: Database) -> None:
    schedule = Schedule(name="s", cron="0 * * * *", workflow="ci", repository="o/r")
    store = ScheduleStore(database)
    store.begin({"s": Plan(cron="0 * * * *", timezone="UTC")}, now=1.0)
    for number in range(1, 6):
        text = store.texts()["s"]
        due = Due(at=3600.0 * number, missed=0)
        submission = submission_of(schedule, due)
        after = fired(Progress.read(text), due, submission.id, now=due.at)

        def fire(
            db: Connection,
            text: str = text,
            submission: Any = submission,
            after: Progress = after,
        ) -> bool:
            if not store.replace(db, "s", text, after):
                return False
            admit = Admission(database).admit
            assert admit(db, submission, now=after.due_at, most=100) is not None
            return True

        fires = at_once([partial(database.write, fire)] * 6)

        assert sorted(fires) == [False] * 5 + [True]
    found = JobReader(database).list(Filter(limit=100))
    assert len(found) == 5


@pytest.mark.host
async def test_two_hub_processes_make_one_job_of_each_run(
    tmp_path: Path, postgresql_url: str
) -> None:
    options: dict[str, Any] = {"database_url": postgresql_url, "more": MINUTELY}
    async with (
        hub(tmp_path / "one", **options) as one,
        hub(tmp_path / "other", **options) as other,
    ):
        set_clock(one, "2030-05-05T10:00:00")
        set_clock(other, "2030-05-05T10:00:00")
        await until(lambda: progress_of(one, "minutely"))
        await settles(one, "minutely")
        before = await jobs(one)
        for _ in range(10):
            await advance(45)
            await settles(one, "minutely")
        found = await jobs(other)
        fired_by = [
            [each for each in log(server) if each["event"] == "schedule_fired"]
            for server in (one, other)
        ]

    assert len(found) == len(before) + 10
    assert sum(map(len, fired_by)) == 10


@pytest.mark.host
async def test_two_processes_that_start_at_once_catch_each_run_up_once(
    tmp_path: Path, postgresql_url: str
) -> None:
    names = [f"s{number}" for number in range(20)]
    table = '[[schedules]]\nname = "{}"\ncron = "{}"\nworkflow = "ci"\n'
    due = datetime.fromtimestamp(time.time() - 7200, UTC)
    cron = f"{due.minute} {due.hour} {due.day} {due.month} *"
    more = "".join(table.format(name, cron) for name in names)
    servers = [
        HubProcess(folder=tmp_path / name, database_url=postgresql_url, more=more)
        for name in ("one", "other")
    ]
    for each in servers:
        each.make()
    with closing(Database.open(postgresql_url)) as database:
        plans = {name: Plan(cron=cron, timezone="UTC") for name in names}
        store = ScheduleStore(database)
        store.begin(plans, now=time.time() - 9000)
        try:
            async with anyio.create_task_group() as tasks:
                for each in servers:
                    tasks.start_soon(each.start)
            await until(
                lambda: all(
                    Progress.read(text).due_at for text in store.texts().values()
                )
            )
            await until(lambda: sum(map(caught_up, servers)) == len(names))
        finally:
            for each in servers:
                each.kill()
        found = JobReader(database).list(Filter(limit=100))

    assert sorted(job.id.split("-")[1] for job in found) == sorted(names)
    assert sum(map(caught_up, servers)) == len(names)


def caught_up(server: HubProcess) -> int:
    return server.log_file.read_text().count("schedule_caught_up")


@pytest.mark.host
@pytest.mark.parametrize(
    ("before", "after"), [("* * * * *", "0 0 1 1 *"), ('"ci"', '"other"')]
)
async def test_a_process_with_another_configuration_stands_aside(
    tmp_path: Path, postgresql_url: str, before: str, after: str
) -> None:
    options: dict[str, Any] = {"database_url": postgresql_url}
    async with hub(tmp_path / "one", more=MINUTELY, **options) as one:
        await until(lambda: progress_of(one, "minutely"))
        changed = MINUTELY.replace(before, after)
        async with hub(tmp_path / "other", more=changed, **options) as other:
            [schedule] = other.context.settings.schedules
            await until(
                lambda: (
                    (found := progress_of(other, "minutely"))
                    and goes_by(schedule, found)
                )
            )
            earlier = await jobs(one)
            await advance(120)
            await until(lambda: "schedule_waits" in one.log_file.read_text())
            await settles(other, "minutely")
            states = [(await listed(each))[0]["state"] for each in (one, other)]
            rows = (await one.http.get("/api/v1/jobs")).json()["jobs"]

    made = {row["dag_name"] for row in rows if row["id"] not in earlier}
    assert made == ({"other"} if "other" in after else set())
    assert states == ["replaced", "active"]
