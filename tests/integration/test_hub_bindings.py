"""A machine that the hub's owner has bound gets jobs of its workflows and repositories alone."""

import json
from typing import Any

import httpx
from anyio import to_thread

from dispatchd.protocol.contracts import check
from support.cli import dispatchd
from support.clock import within
from support.hub import Hub
from support.machine import Machine, held_poll, row

ACME = {"dag_name": "ci", "repository_name": "acme/shop"}
OTHER = {"dag_name": "ci", "repository_name": "other/r"}


async def bind(server: Hub, name: str, **body: Any) -> httpx.Response:
    return await server.http.post(f"/api/v1/machines/{name}/bind", json=body)


async def test_a_bound_machine_is_handed_its_jobs_alone(server: Hub) -> None:
    machine = Machine(http=server.http)
    reply = await bind(server, "m1", workflows=["ci"], repositories=["Acme/*"])
    for job_id, job in (
        ("other", OTHER),
        ("deploy", {**ACME, "dag_name": "deploy"}),
        ("none", {"dag_name": "ci"}),
        ("mine", ACME),
    ):
        await server.submit({"id": job_id, **job})

    assert (await machine.pull()).id == "mine"
    assert (await machine.ask()).status_code == 204
    # A client of the first protocol too.
    first = Machine(http=server.http, extensions=None)
    assert (await first.ask()).status_code == 204
    free = Machine(http=server.http, name="m2")
    assert {(await free.pull()).id for _ in range(3)} == {"other", "deploy", "none"}
    check("hub-machine", reply.json())
    assert reply.json()["bound_workflows"] == ["ci"]
    assert reply.json()["bound_repositories"] == ["Acme/*"]


async def test_a_job_passes_a_bound_poll_by(server: Hub) -> None:
    await bind(server, "m1", repositories=["acme/*"])
    bound, free = Machine(http=server.http), Machine(http=server.http, name="m2")
    with within(20):
        async with held_poll(bound) as waits:
            async with held_poll(free) as poll:
                await server.submit({"id": "other", **OTHER})
            await server.submit({"id": "mine", **ACME})

    assert poll.reply.json()["id"] == "other"
    assert waits.reply.json()["id"] == "mine"


async def test_a_binding_counts_for_a_poll_that_is_held(server: Hub) -> None:
    one, other = Machine(http=server.http), Machine(http=server.http, name="m2")
    await bind(server, "m2", repositories=["other/*"])
    await server.submit({"id": "waits", **ACME})
    with within(20):
        async with held_poll(other) as poll:
            assert (await one.pull()).id == "waits"
            await bind(server, "m1", workflows=[])
            await server.submit({"id": "again", **ACME})
            assert (await one.ask()).status_code == 204
            # What it must not have is there, and is handed out once it may.
            await bind(server, "m2")

    assert poll.reply.json()["id"] == "again"


async def test_what_a_machine_has_goes_on_and_is_cancelled(server: Hub) -> None:
    machine = Machine(http=server.http)
    await server.submit({"id": "j", **OTHER})
    held = await machine.pull()
    await held.accept()
    await bind(server, "m1", repositories=["acme/*"])
    await server.submit({"id": "stop", "command": "cancel", "dag_run_id": "j"})

    assert (await machine.pull()).id == "stop"
    assert (await held.beat()).json()["cancel_requested"] is True
    assert (await held.finish("aborted")).status_code == 204
    assert (await row(server, "j"))["state"] == "aborted"


async def test_a_machine_that_is_not_there_is_not_bound(server: Hub) -> None:
    assert (await bind(server, "nobody", workflows=["ci"])).status_code == 404
    assert (await bind(server, "m1", repositories=["shop"])).status_code == 422


async def test_the_commands_show_what_a_machine_is_bound_to(
    server: Hub,
) -> None:
    async def hub(*words: str) -> str:
        done = await to_thread.run_sync(
            lambda: dispatchd("hub", *words, cwd=server.folder)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = await hub(
        *("machine", "bind", "m1", "--workflow", "ci", "--workflow", "docs"),
        *("--repository", "acme/*"),
    )
    listed = await hub("machines")
    free = json.loads(await hub("machine", "bind", "m1", "--any", "--json"))
    wrong = await to_thread.run_sync(
        lambda: dispatchd("hub", "machine", "bind", "m1", cwd=server.folder)
    )

    assert said == "m1  bound to workflows ci, docs; repositories acme/*\n"
    assert "workflows ci, docs; repositories acme/*" in listed
    assert free["bound_workflows"] is free["bound_repositories"] is None
    assert wrong.returncode != 0
    assert "--any" in wrong.stderr
