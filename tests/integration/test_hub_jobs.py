"""Submitting and watching jobs, against a real hub."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event

import anyio
import httpx
import pytest

from support.clock import within
from support.hub import Hub, HubHere, hub
from support.machine import JOBS, Machine, refuses, row
from support.until import until

BROKEN_JOBS = [
    (b"{", 400, "JSON"),
    (b"[]", 400, "JSON"),
    (b"", 400, "JSON"),
    (b'{"dag_name": "\xff"}', 400, "UTF-8"),
    (b'{"dag_name": "ci", "payload": NaN}', 400, "NaN"),
    (b"[" * 100_000, 400, "JSON"),
    (b"{}", 422, "$.dag_name is required"),
    (b'{"dag_name": ""}', 422, "$.dag_name"),
    (b'{"dag_name": "ci", "repository_id": "7"}', 422, "$.repository_id"),
    (b'{"dag_name": "ci", "id": "\\ud800"}', 422, "$.id"),
    (b'{"dag_name": "ci", "own": 1e999}', 422, "$.own"),
]


async def test_a_broken_job_is_refused_with_the_place_and_the_reason(
    server: Hub,
) -> None:
    for body, status, reason in BROKEN_JOBS:
        reply = await server.http.post(JOBS, content=body)

        assert reason in refuses(reply, status)
    assert (await server.http.get(JOBS)).json() == {"jobs": []}


async def test_an_id_is_taken_once(server: Hub, machine: Machine) -> None:
    await server.submit({"id": "j", "dag_name": "ci"}, payload="1")

    again = await server.http.post(JOBS, json={"id": "j", "dag_name": "other"})

    assert "j" in refuses(again, 409)
    assert (await machine.pull()).job["dag_name"] == "ci"
    assert (await machine.ask()).status_code == 204


async def test_a_job_without_an_id_gets_one(server: Hub, machine: Machine) -> None:
    ids = {await server.submit({"dag_name": "ci", "id": None}) for _ in range(3)}

    assert {(await machine.pull()).id for _ in range(3)} == ids
    assert len(ids) == 3


async def answer_to_head(server: Hub, length: int) -> bytes:
    """Return the answer to a submit of which only the head has been sent."""
    url = server.http.base_url
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {length}\r\n"
        f"Authorization: {server.http.headers['authorization']}\r\n\r\n"
    )
    async with await anyio.connect_tcp(url.host, url.port or 80) as stream:
        await stream.send(head.encode())
        answer = b""
        while b"}" not in answer:
            answer += await stream.receive()
    assert answer.startswith(b"HTTP/1.1 413 ")
    return answer


async def test_a_job_that_no_machine_could_read_is_refused(
    server: Hub, machine: Machine
) -> None:
    body = '{"dag_name": "ci", "payload": "' + "x" * (32 << 20) + '"}'
    assert "MiB" in refuses(await server.http.post(JOBS, content=body), 413)
    assert b"MiB" in await answer_to_head(server, length=48 << 20)

    # The reply to a pull may have 32 MiB (contracts/README.md, limits).
    most = '"' + "x" * ((32 << 20) - (64 << 10)) + '"'
    await server.submit({"dag_name": "ci"}, payload=most)
    assert len((await machine.pull()).text) < 32 << 20


async def test_a_job_that_is_large_beside_its_payload_is_refused(
    server: Hub, machine: Machine
) -> None:
    large = {"dag_name": "ci", "note": "ü" * 11_000}
    reply = await server.http.post(JOBS, json=large)

    assert "larger than 64 KiB; move what is long into payload" in refuses(reply, 413)
    assert (await server.http.get(JOBS)).json()["jobs"] == []
    await server.submit({**large, "note": "ü" * 10_000}, payload=f'"{"x" * 100_000}"')
    assert (await machine.pull()).job["note"] == "ü" * 10_000


async def test_a_large_job_of_an_earlier_release_is_shown_and_runs_again(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub") as server:
        await server.submit({"id": "j", "dag_name": "ci", "note": "x"})
        assert (await server.http.post(f"{JOBS}/j/cancel")).is_success
        with closing(sqlite3.connect(server.folder / "hub.db")) as db, db:
            db.execute(
                "UPDATE jobs SET document = replace(document, '\"x\"', ?)",
                (f'"{"x" * 70_000}"',),
            )

        again = await server.http.post(f"{JOBS}/j/requeue")

        assert again.status_code == 201, again.text
        shown = await row(server, again.json()["id"])
        assert shown["note"] == "x" * 70_000


async def test_a_watcher_is_answered_when_the_job_gets_there(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    seen: dict[str, str] = {}

    async def watch(until: str) -> None:
        seen[until] = (await server.result("j", 20, until=until))["state"]

    with within(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, "accepted")
            tasks.start_soon(watch, "finished")
            held = await machine.pull(wait="10")
            await held.accept()
            await held.finish()

    assert seen["finished"] == "succeeded"
    assert seen["accepted"] in ("accepted", "succeeded")


async def test_an_odd_wait_is_none(server: Hub) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})

    for wait in ("nan", "-1", "x", "", "0.01"):
        with within(5):
            reply = await server.http.get(f"{JOBS}/j?wait={wait}")
        assert reply.json()["state"] == "queued"


async def test_jobs_are_listed_by_state_newest_last(
    server: Hub, machine: Machine
) -> None:
    for name in "abc":
        await server.submit({"id": name, "dag_name": "ci"}, payload='"secret-ish"')
    await machine.pull()

    async def listed(**query: str) -> list[str]:
        reply = await server.http.get(JOBS, params=query)
        assert "secret-ish" not in reply.text
        return [job["id"] for job in reply.json()["jobs"]]

    assert await listed() == ["a", "b", "c"]
    assert await listed(state="queued") == ["b", "c"]
    assert await listed(state="claimed") == ["a"]
    assert await listed(limit="2") == ["b", "c"]
    assert await listed(limit="2", before="b") == ["a"]
    assert await listed(limit="2", before="a") == []
    assert await listed(before="c", state="queued") == ["b"]
    assert await listed(before="no such job") == []


async def test_a_watcher_is_answered_when_the_job_is_another_than_was_seen(
    server: HubHere, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    await held.accept()
    await held.beat()

    async def look(seen: str) -> tuple[str, str]:
        query = {"wait": "60", "seen": seen}
        reply = await server.http.get(f"{JOBS}/j", params=query)
        return reply.json()["phase"], reply.headers["job-version"]

    answers: list[tuple[str, str]] = []

    async def watch(seen: str) -> None:
        answers.append(await look(seen))

    with within(50):
        answers.append(await look("another"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, answers[0][1])
            await until(lambda: server.context.waiting.watchers.count("j") == 1)
            # The state stays the same.
            steps = {"completed": 1, "in_progress": 1, "total": 3}
            assert (await held.beat(progress=steps)).status_code == 200

    assert [phase for phase, _ in answers] == ["running", "running"]
    assert answers[0][1] != answers[1][1]


@pytest.mark.parametrize("path", [JOBS, "/api/v1/deliveries"])
async def test_however_many_lists_are_read_a_machine_gets_its_job(
    server: HubHere, machine: Machine, path: str
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    context, may_end = server.context, Event()
    lists: list[httpx.Response] = []

    async def ask() -> None:
        lists.append(await server.http.get(path, headers=server.headers))

    with within(60):
        async with anyio.create_task_group() as tasks:
            try:
                for _ in range(40):
                    wait = partial(may_end.wait, 60)
                    tasks.start_soon(context.use_for_list, wait)
                tasks.start_soon(ask)
                await until(lambda: context.calls > 0)
                held = await machine.pull()
                assert lists == []
            finally:
                may_end.set()

    assert held.job["id"] == "j"
    assert len(lists) == 1
