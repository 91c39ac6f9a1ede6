"""No wait for the database is without an end: connections that go silent, rows that stay locked."""

from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import psycopg
import pytest
from bench.postgres import Postgres

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.storage.database import Database
from support.clock import within
from support.hub import hub
from support.machine import JOBS, Machine
from support.net import net_of_its_own
from support.threads import at_once
from support.until import until

pytestmark = pytest.mark.host

CI = {"dag_name": "ci"}


async def test_a_hub_whose_connections_went_silent_makes_new_ones(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    with net_of_its_own(postgresql.port) as net:
        async with hub(tmp_path, database_url=net.url(postgresql_url)) as server:
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(server.submit, CI)
            assert net.silence()

            with within(60):
                statuses = [(await server.http.post(JOBS, json=CI)).status_code]
                while statuses[-1] != 201:
                    statuses.append((await server.http.post(JOBS, json=CI)).status_code)
                ready = await server.http.get("/readyz")

    assert set(statuses) <= {201, 503}
    assert ready.status_code == 200


async def test_a_stop_does_not_wait_for_a_database_that_went_silent(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    with net_of_its_own(postgresql.port) as net:
        async with hub(tmp_path, database_url=net.url(postgresql_url)) as server:
            await server.submit(CI)
            net.go_silent()

            async def ask() -> None:
                # Cut off by the stop.
                with suppress(httpx.HTTPError):
                    await server.http.post(JOBS, json=CI)

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(ask)
                await until(lambda: server.context.calls > 0)
                await server.stop(within_s=60)
                tasks.cancel_scope.cancel()


async def test_one_locked_row_keeps_no_other_call_from_its_answer(
    tmp_path: Path, postgresql_url: str
) -> None:
    statuses: list[int] = []
    async with (
        hub(tmp_path, database_url=postgresql_url) as server,
        await psycopg.AsyncConnection.connect(postgresql_url) as other,
    ):
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()
        await other.execute("SELECT 1 FROM jobs FOR UPDATE")

        async def accept() -> None:
            statuses.append((await held.accept()).status_code)

        with within(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(24):
                    tasks.start_soon(accept)
                await server.submit(CI)
        await other.rollback()
        assert (await held.accept()).status_code == 204

    assert statuses == [503] * 24


def test_a_call_on_a_silent_connection_ends(
    postgresql: Postgres, postgresql_url: str
) -> None:
    with net_of_its_own(postgresql.port) as net:
        database = Database.open(net.url(postgresql_url))
        net.go_silent()

        def fails() -> bool:
            with pytest.raises(StorageBusy):
                database.check()
            return True

        assert at_once([fails] * 3) == [True] * 3
        database.close()
