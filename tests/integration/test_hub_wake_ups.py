"""Woken is not served: no queued job lies beside a held poll that may have it, whatever fails."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psycopg
import pytest
from bench.postgres import Postgres

from support.clock import advance, within
from support.hub import Hub, HubHere, hub
from support.machine import JOBS, HeldPoll, Machine, held_poll
from support.net import net_of_its_own
from support.until import until

CI = {"dag_name": "ci"}


async def test_a_job_whose_news_woke_a_poll_that_got_another_one_is_not_left_lying(
    each_server: Hub,
) -> None:
    http = each_server.http
    for _ in range(8):
        with within(20):
            async with (
                held_poll(Machine(http=http, name="m0", workflows=["a", "b"])) as both,
                held_poll(Machine(http=http, name="m1", workflows=["a"])) as of_a,
                held_poll(Machine(http=http, name="m2", workflows=["b"])) as of_b,
            ):
                polls = {"a": of_a, "b": of_b, "any": both}
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(each_server.submit, {"dag_name": "a"})
                    tasks.start_soon(
                        each_server.submit, {"dag_name": "b", "priority": 5}
                    )
                await until(lambda: _ended(polls.values()) == 2)  # noqa: B023  # awaited here
                [left] = [name for name, poll in polls.items() if not poll.has_ended]
                await each_server.submit({"dag_name": "a" if left == "any" else left})


def _ended(polls: Iterable[HeldPoll]) -> int:
    return sum(each.has_ended for each in polls)


async def test_a_dead_poll_of_a_machine_is_not_served_before_its_living_one(
    each_server: Hub,
) -> None:
    machine = Machine(http=each_server.http)
    with within(20):
        async with held_poll(machine, wait="20") as dead:
            async with held_poll(machine) as living:
                await each_server.submit({"id": "j", **CI})
            await advance(20)

    assert living.reply.json()["id"] == "j"
    assert dead.reply.status_code == 204


@pytest.mark.host
async def test_a_queue_that_is_locked_is_looked_at_again(
    tmp_path: Path, postgresql_url: str
) -> None:
    async with (
        hub(tmp_path, database_url=postgresql_url) as server,
        await psycopg.AsyncConnection.connect(postgresql_url) as other,
    ):
        await server.submit({"id": "j", **CI})
        await other.execute("SELECT 1 FROM jobs FOR UPDATE")
        with within(20):
            async with held_poll(Machine(http=server.http)) as poll:
                await other.rollback()

    assert poll.reply.json()["id"] == "j"


@asynccontextmanager
async def two_hubs(
    tmp_path: Path, postgresql: Postgres, url: str
) -> AsyncIterator[tuple[HubHere, HubHere]]:
    """Two hubs on a database: the first by a way on which only the connection that listens has gone silent."""
    with net_of_its_own(postgresql.port) as net:
        async with (
            hub(tmp_path / "one", database_url=net.url(url)) as one,
            hub(tmp_path / "other", database_url=url) as other,
        ):
            await until(lambda: net.silence(b"LISTEN"))
            yield one, other


@pytest.mark.host
async def test_a_connection_that_hears_of_jobs_and_dies_silently_is_made_anew(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with two_hubs(tmp_path, postgresql, postgresql_url) as (one, other):
        replies = []
        with within(20):
            for server in (one, other, other):
                async with held_poll(Machine(http=one.http)) as poll:
                    await server.submit(CI)
                replies.append(poll.reply.status_code)

    assert replies == [200] * 3


@pytest.mark.host
async def test_a_watcher_is_woken_while_the_connection_that_hears_is_silent(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with two_hubs(tmp_path, postgresql, postgresql_url) as (one, other):
        job_id = await other.submit(CI)
        with within(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.result, job_id)
                reply = await other.http.post(f"{JOBS}/{job_id}/cancel")

    assert reply.json()["ended"]
