"""What depends on PostgreSQL: several hubs on one database, and a database that goes away."""

import gc
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import psycopg
import pytest
from bench.postgres import Postgres
from sqlalchemy import Connection, insert, select, text

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.engines.pipeline import UNREAD
from dispatchd.hub.storage.engines.postgresql import connect
from dispatchd.hub.storage.schema import MARKS
from support.cli import dispatchd
from support.clock import advance, within
from support.hub import HubHere, hub
from support.machine import JOBS, Machine, held_poll, row
from support.until import until

pytestmark = pytest.mark.host

CI = {"dag_name": "ci"}


@pytest.fixture
async def two(tmp_path: Path, postgresql_url: str) -> AsyncIterator[list[HubHere]]:
    """Two hubs on one database, each with a folder and a first token of its own."""
    async with (
        hub(tmp_path / "one", database_url=postgresql_url) as one,
        hub(tmp_path / "other", database_url=postgresql_url) as other,
    ):
        yield [one, other]


async def test_a_poll_is_woken_by_what_another_hub_is_told(two: list[HubHere]) -> None:
    one, other = two
    machine = Machine(http=one.http)

    with within(20):
        async with held_poll(Machine(http=other.http, name="m2")) as first:
            await one.submit({"id": "j", **CI})
        held = first.reply.json()
        async with held_poll(machine) as second:
            token = held["claim_token"]
            mine = Machine(http=other.http, name="m2")
            await mine.call("release", "j", claim_token=token)

    assert [first.reply.json()["id"], second.reply.json()["id"]] == ["j", "j"]
    assert second.reply.json()["claimed_by"] == "m1"


async def test_only_a_poll_that_can_use_a_job_is_woken_at_another_hub(
    two: list[HubHere],
) -> None:
    one, other = two
    docs = Machine(http=other.http, name="m2", workflows=["docs"])
    ci = Machine(http=other.http, workflows=["ci"])

    with within(20):
        async with held_poll(docs) as waits:
            async with held_poll(ci) as poll:
                # More than NOTIFY takes is told as any job.
                names = ("dag_name", "repository_name", "id")
                long = dict.fromkeys(names, "\N{ROCKET}" * 512)
                await one.submit(long)
                await one.submit({"id": "j", **CI})
            await one.submit({"id": "k", "dag_name": "docs"})

    assert poll.reply.json()["id"] == "j"
    assert waits.reply.json()["id"] == "k"


async def test_a_watcher_sees_what_a_machine_has_told_another_hub(
    two: list[HubHere],
) -> None:
    one, other = two
    await one.submit({"id": "j", **CI})
    seen: list[str] = []

    async def watch() -> None:
        seen.append((await one.result("j", 20))["state"])

    with within(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            held = await Machine(http=other.http).pull()
            await held.accept()
            assert (
                await Machine(http=one.http).call(
                    "finish",
                    "j",
                    claim_token=held.token,
                    result_status="failed",
                    result_summary="No.",
                )
            ).status_code == 204

    assert seen == ["failed"]
    assert await row(one, "j") == await row(other, "j")


async def test_no_job_goes_to_two_machines_of_two_hubs(two: list[HubHere]) -> None:
    ids = [await two[each % 2].submit(CI) for each in range(60)]
    taken: list[str] = []

    async def take(server: HubHere, name: str) -> None:
        machine = Machine(http=server.http, name=name)
        while (reply := await machine.ask()).status_code == 200:
            taken.append(reply.json()["id"])

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(take, two[number % 2], f"m{number}")

    assert Counter(taken) == Counter(ids)


async def test_two_hubs_take_each_job_of_a_silent_machine_back_once(
    two: list[HubHere],
) -> None:
    one, other = two
    ids = {await one.submit(CI) for _ in range(20)}
    for _ in ids:
        await Machine(http=other.http).pull()

    await advance(one.lease_s)

    async def are_back() -> bool:
        reply = await one.http.get(JOBS, params={"state": "queued"})
        return {each["id"] for each in reply.json()["jobs"]} == ids

    await until(are_back)

    def expiries() -> int:
        said = one.log_file.read_text() + other.log_file.read_text()
        return said.count("lease_expired")

    # It is logged after it was done.
    await until(lambda: expiries() >= len(ids))
    assert expiries() == len(ids)


async def test_a_database_that_is_away_is_a_503_and_the_hub_goes_on_after_it(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with hub(tmp_path, database_url=postgresql_url) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "j", **CI})
        held = await machine.pull()
        with postgresql.away(postgresql_url):
            refused = [
                await server.http.post(JOBS, json=CI),
                await machine.ask(),
                await held.accept(),
                await server.http.get("/readyz"),
            ]
            health = await server.http.get("/healthz")

        assert [each.status_code for each in refused] == [503] * len(refused)
        assert {each.headers["retry-after"] for each in refused} == {"1"}
        assert not any("127.0.0.1" in each.text for each in refused)
        assert health.status_code == 200
        assert (await held.accept()).status_code == 204
        # Polls are woken again too, by a connection that was made anew.
        with within(30):
            async with held_poll(machine) as poll:
                await server.submit({"id": "k", **CI})
        assert poll.reply.json()["id"] == "k"


def test_a_connection_that_cannot_be_set_up_is_closed(postgresql_url: str) -> None:
    """As one that the server ends at that moment; pytest reports one that is left open."""
    with psycopg.connect(postgresql_url, autocommit=True) as server:
        server.execute("CREATE SCHEMA other")
        server.execute(
            "CREATE FUNCTION other.set_config(text, text, boolean) RETURNS text"
            " LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$"
        )
    with pytest.raises(psycopg.errors.RaiseException):
        connect(postgresql_url, options="-c search_path=other,pg_catalog")
    gc.collect()


def test_a_conflict_that_no_statement_waits_for_is_tried_again(
    postgresql_url: str,
) -> None:
    """However many statements are on their way when its error is read."""
    database, counts = Database.open(postgresql_url), [0, 1, 2, 5, 10, 50, 200]
    tries, taken_row = Counter[int](), {"name": "taken", "value": ""}
    try:
        database.write(lambda db: db.execute(insert(MARKS), taken_row))
        for count in counts:

            def work(db: Connection, count: int = count) -> None:
                tries[count] += 1
                # As if another transaction had inserted the same one first.
                taken = "taken" if tries[count] < 4 else f"free {count}"
                for name in (
                    taken,
                    *(f"{count} {number}" for number in range(count)),
                ):
                    row = {"name": name, "value": ""}
                    db.execute(insert(MARKS), row, execution_options=UNREAD)

            database.write(work)
    finally:
        database.close()

    assert tries == dict.fromkeys(counts, 4)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_all_texts_is_refused(
    tmp_path: Path, postgresql: Postgres, encoding: str
) -> None:
    url = postgresql.new_database(encoding=encoding)
    good = postgresql.new_database()

    refused = dispatchd("hub", "init", str(tmp_path / "hub"), "--database-url", url)
    left = list((tmp_path / "hub").iterdir())
    made = dispatchd("hub", "init", str(tmp_path / "hub"), "--database-url", good)
    file = tmp_path / "hub" / "hub.toml"
    file.write_text(file.read_text().replace(good, url))
    served = dispatchd("hub", "serve", "--config", str(file))
    for each in (url, good):
        postgresql.drop(each)

    assert left == []
    assert made.returncode == 0, made.stderr
    for done in (refused, served):
        assert done.returncode == os.EX_UNAVAILABLE
        [line] = done.stderr.splitlines()
        assert f"its encoding is {encoding}, and UTF8 is needed" in line
        assert "createdb -E UTF8 -T template0" in line


_ENDED = re.compile("terminat|closed|lost")


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_connection_that_ends_within_a_change_is_no_bug(
    postgresql_url: str, before: int, *, is_read: bool
) -> None:
    """As by a restart of the server, a dead network, or a statement that takes too long."""
    database = Database.open(postgresql_url)
    options = {} if is_read else dict(UNREAD)

    def work(db: Connection) -> None:
        pid = db.execute(text("SELECT pg_backend_pid()")).scalar()
        for number in range(before):
            row = {"name": f"{number}", "value": ""}
            db.execute(insert(MARKS), row, execution_options=UNREAD)
        with psycopg.connect(postgresql_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        row = {"name": "last", "value": ""}
        db.execute(insert(MARKS), row, execution_options=options)

    try:
        for _ in range(2):
            with pytest.raises(StorageBusy, match=_ENDED):
                database.write(work)
        database.check()
        with database.snapshot() as db:
            assert db.execute(select(MARKS.c.name)).all() == []
    finally:
        database.close()
