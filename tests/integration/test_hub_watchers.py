"""Many who wait for one job cost the database what one does."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import httpx
import pytest
from sqlalchemy import event

from support.clock import within
from support.hub import NO_TLS, HubHere
from support.machine import JOBS, Machine
from support.until import until

CI = {"dag_name": "ci"}

ROOM = 75
"""Statements that a busy machine may need more: after each of four changes two looks, and loops of the hub (count).

A look has three or four. Of 100 watchers each alone would need at least 300.
"""


@contextmanager
def statements(server: HubHere) -> Iterator[list[str]]:
    """Give the statements of the hub in a block, as they are executed."""
    engine, made = server.context.stores.database.engine, list[str]()

    def note(_db: object, _cursor: object, statement: str, *_: object) -> None:
        made.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        event.remove(engine, "before_cursor_execute", note)


@asynccontextmanager
async def watched_by(
    server: HubHere, job_id: str, count: int
) -> AsyncIterator[list[str]]:
    """Have a job watched until it has ended; give the states that its watchers are answered with."""
    seen: list[str] = []
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=server.url,
            timeout=None,
            headers=server.headers,
            verify=NO_TLS,
            limits=limits,
        ) as http,
        anyio.create_task_group() as tasks,
    ):

        async def watch() -> None:
            reply = await http.get(f"{JOBS}/{job_id}", params={"wait": "300"})
            seen.append(reply.json()["state"])

        for _ in range(count):
            tasks.start_soon(watch)
        watching = server.context.waiting.watchers
        await until(lambda: watching.count(job_id) == count, 60)
        yield seen


@pytest.mark.parametrize("count", [100, pytest.param(400, marks=pytest.mark.torture)])
async def test_each_change_of_a_job_costs_its_many_watchers_one_look(
    each_server: HubHere, count: int
) -> None:
    server = each_server
    machine = Machine(http=server.http)
    costs: list[int] = []
    with within(120):
        for job_id, watchers in (("few", 1), ("many", count)):
            await server.submit({"id": job_id, **CI})
            async with watched_by(server, job_id, watchers) as seen:
                with statements(server) as made:
                    held = await machine.pull()
                    await held.accept()
                    await held.beat()
                    await held.finish()
                    await until(lambda: len(seen) == watchers)  # noqa: B023  # it is called at once
            assert seen == ["succeeded"] * watchers
            costs.append(len(made))

    assert costs[1] <= costs[0] + ROOM


async def test_the_watchers_of_one_job_cost_others_nothing(
    each_server: HubHere,
) -> None:
    server = each_server
    machine = Machine(http=server.http)
    costs: list[int] = []
    with within(120):
        for job_id, watchers in (("few", 1), ("many", 200)):
            await server.submit({"id": job_id, **CI})
            watched = await machine.pull()
            async with watched_by(server, job_id, watchers):
                with statements(server) as made:
                    await server.submit({"id": f"not-{job_id}", **CI})
                    held = await machine.pull()
                    await held.accept()
                    await held.finish()
                costs.append(len(made))
                await watched.finish()

    assert costs[1] <= costs[0] + ROOM
