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


_END_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def test_a_server_that_ends_each_connection_is_busy_and_no_bug(
    tmp_path: Path, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    statuses: set[int] = set()
    async with (
        hub(tmp_path, database_url=postgresql_url) as server,
        await psycopg.AsyncConnection.connect(
            postgresql_url, autocommit=True
        ) as ending,
    ):

        async def call(caller: int) -> None:
            for number in range(25):
                job_id = f"{caller}-{number}"
                for method, path, body in (
                    ("POST", JOBS, {"id": job_id, **CI}),
                    ("GET", JOBS, None),
                    ("POST", f"{JOBS}/{job_id}/cancel", None),
                    ("GET", "/metrics", None),
                    ("GET", "/readyz", None),
                ):
                    reply = await server.http.request(method, path, json=body)
                    statuses.add(reply.status_code)

        async def end_connections() -> None:
            while True:
                await ending.execute(_END_ALL)
                await anyio.sleep(0.03)

        with within(120):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end_connections)
                async with anyio.create_task_group() as callers:
                    for caller in range(4):
                        callers.start_soon(call, caller)
                tasks.cancel_scope.cancel()

            async def is_taken() -> bool:
                reply = await server.http.post(JOBS, json={"id": "last", **CI})
                return reply.status_code == 201

            await until(is_taken)

    assert {200, 503} <= statuses <= {200, 201, 404, 503}
    assert "bug" not in server.log_file.read_text()
    assert caplog.messages == []


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
