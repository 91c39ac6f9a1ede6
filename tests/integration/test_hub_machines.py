"""What machines say about themselves: on the page, in the API and in the terminal; and what none may say."""

from typing import Any

import httpx
import pytest
from anyio import to_thread
from attrs import evolve

from dispatchd.protocol.contracts import check
from support.cli import dispatchd
from support.clock import advance
from support.hub import Hub
from support.hub_page import admin_token, login, text
from support.machine import Machine

GIB = 1 << 30
CI = {"dag_name": "ci", "repository_name": "o/r"}
SAID = {"version": "1.4.0", "slots": 4, "free_bytes": 6 * GIB + GIB // 2}


async def shown(server: Hub, name: str = "m1") -> dict[str, Any]:
    """Return a machine as the API shows it."""
    machines = (await server.http.get("/api/v1/machines")).json()["machines"]
    [found] = [each for each in machines if each["name"] == name]
    check("hub-machine", found)
    fields = ("version", "slots", "running", "free_bytes")
    return {field: found[field] for field in fields}


async def test_a_machine_shows_its_release_its_slots_and_its_disk(server: Hub) -> None:
    machine = Machine(http=server.http, said=SAID)
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as owner:
        await login(owner, admin_token(server))
        await server.submit({"id": "j", **CI})
        held = await machine.pull()
        await held.accept()
        waiting = await shown(server)
        await held.beat("running")
        page = " ".join(text(await owner.get("/machines")).split())

    listed = await to_thread.run_sync(
        lambda: dispatchd("hub", "machines", cwd=server.folder)
    )

    assert waiting == {**SAID, "running": 0}
    assert await shown(server) == {**SAID, "running": 1}
    assert "1.4.0 · 6.5 GiB free" in page
    assert "1 of 4" in page
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("m1")]
    assert "1 of 4   6.5 GiB" in line


async def test_what_a_machine_says_is_that_of_its_newest_pull(server: Hub) -> None:
    machine = Machine(http=server.http, said=SAID)
    full = evolve(machine, said={**SAID, "free_bytes": 1}, workflows=[])
    silent = evolve(machine, said=None, extensions=None)
    nothing = {"version": "", "slots": 0, "running": 0, "free_bytes": 0}

    assert (await silent.ask()).status_code == 204
    assert await shown(server) == nothing
    assert (await machine.ask()).status_code == 204
    assert await shown(server) == {**SAID, "running": 0}
    await full.ask()
    # Free space alone is stored as often as the time of a pull.
    assert (await shown(server))["free_bytes"] == SAID["free_bytes"]
    await advance(11)
    await full.ask()
    assert (await shown(server))["free_bytes"] == 1
    await evolve(machine, said={"version": None, "other": [{}]}).ask()
    assert await shown(server) == nothing


@pytest.mark.parametrize(
    ("said", "status", "named"),
    [
        ("1.4.0", 422, "machine"),
        ({"version": "<b>\x1b[2J"}, 422, "machine.version"),
        ({"version": "1.4\u202e0"}, 422, "machine.version"),
        ({"version": "1" * 65}, 422, "machine.version"),
        ({"version": ["1"]}, 422, "machine.version"),
        ({"slots": -1}, 422, "machine.slots"),
        ({"slots": True}, 422, "machine.slots"),
        ({"slots": 10**30}, 422, "machine.slots"),
        ({"free_bytes": 1e300}, 422, "machine.free_bytes"),
        ({"version": "1" * 10_000_000}, 413, "64 KiB"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_machine_that_says_what_none_may_is_refused_by_the_field(
    server: Hub, said: Any, status: int, named: str
) -> None:
    machine = Machine(http=server.http, said=SAID)
    await machine.ask()

    reply = await evolve(machine, said=said).ask()

    assert reply.status_code == status, reply.text
    assert named in reply.json()["message"]
    assert await shown(server) == {**SAID, "running": 0}


async def test_a_release_with_markup_is_text_on_the_page(server: Hub) -> None:
    await Machine(http=server.http, said={"version": "<script>&amp;"}).ask()
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as owner:
        await login(owner, admin_token(server))
        page = (await owner.get("/machines")).text

    assert "&lt;script&gt;&amp;amp;" in page
    assert "<script>&amp;" not in page
