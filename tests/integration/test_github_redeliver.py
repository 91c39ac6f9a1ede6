"""`dispatchd hub github status` and `redeliver`, beside a real hub and a GitHub that keeps deliveries."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cli import Done, command
from support.deliveries_api import DeliveriesApi, Entry, Refusal, deliveries_api
from support.github_events import real
from support.github_hub import CONFIG, deliveries, jobs, send
from support.github_hub import prepared as prepared_with_token
from support.hub import Hub, hub
from support.polling import polling_hub, status_of
from support.until import until

PUSH = real("push/00")


@pytest.fixture
async def api() -> AsyncIterator[DeliveriesApi]:
    async with deliveries_api() as found:
        yield found


@pytest.fixture
async def server(tmp_path: Path, api: DeliveriesApi) -> AsyncIterator[Hub]:
    """A hub that gets webhooks; its own look at what it has missed is over."""
    async with polling_hub(tmp_path / "hub", api, ingest="webhook") as found:

        async def has_looked() -> bool:
            return bool((await status_of(found))["swept_at"])

        await until(has_looked)
        yield found


async def say(server: Hub, *words: str) -> Done:
    done = await command("hub", "github", *words, cwd=server.folder)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def sending(server: Hub) -> Any:
    async def hook(entry: Entry) -> int:
        reply = await send(server, entry.event, entry.payload, entry.guid)
        return reply.status_code

    return hook


async def test_what_has_failed_and_is_not_known_is_sent_once_more_oldest_first(
    api: DeliveriesApi, server: Hub
) -> None:
    api.hook = sending(server)
    refused = api.add("push", {**PUSH, "number": 1}, ago_s=60, status_code=502)
    unreachable = api.add("push", {**PUSH, "number": 2}, ago_s=90, status_code=0)
    late = api.add("push", {**PUSH, "number": 3}, ago_s=30, status_code=504)
    api.add("push", {**PUSH, "number": 4}, ago_s=20, status_code=202)
    long_ago = api.add("push", {**PUSH, "number": 5}, ago_s=3 * 3600, status_code=0)
    known = api.add("push", PUSH, ago_s=10, status_code=500)
    assert (await send(server, "push", PUSH, known.guid)).is_success
    mended = api.add("push", PUSH, ago_s=50, status_code=500)
    api.again(mended, ago_s=5, status_code=202)
    wanted = [unreachable, refused, late]

    rehearsed = await say(server, "redeliver", "--dry-run")
    assert api.redelivered == []
    done = await say(server, "redeliver")

    assert done.returncode == 0, done.stderr
    assert api.redelivered == [each.id for each in wanted]
    for output, word in ((rehearsed, "would be asked for"), (done, "asked for")):
        lines = output.stdout.splitlines()
        assert [line.split()[0] for line in lines] == [each.guid for each in wanted]
        assert all(line.endswith(word) for line in lines)
    assert len(await jobs(server)) == 4
    nothing = await say(server, "redeliver")
    assert nothing.stdout == "No delivery has failed that the hub doesn't have.\n"
    more = json.loads(
        (await say(server, "redeliver", "--since", "1d", "--json")).stdout
    )
    assert [each["guid"] for each in more] == [long_ago.guid]
    assert len(await deliveries(server)) == 5


async def test_those_that_are_named_are_sent_whatever_has_become_of_them(
    api: DeliveriesApi, server: Hub
) -> None:
    taken = api.add("push", PUSH, ago_s=2 * 86_400, status_code=202)
    known = api.add("push", PUSH, ago_s=10, status_code=202)
    assert (await send(server, "push", PUSH, known.guid)).is_success

    done = await say(server, "redeliver", known.guid, taken.guid)

    assert api.redelivered == [taken.id]
    first, second = done.stdout.splitlines()
    assert first.startswith(taken.guid)
    assert first.endswith("asked for")
    assert f"{known.guid}" in second
    assert "known; `dispatchd hub redeliver` or the check's Re-run" in second


async def test_a_list_of_many_pages_is_read_as_far_as_it_matters(
    api: DeliveriesApi, server: Hub
) -> None:
    api.per_page = 2
    made = [
        api.add("push", PUSH, ago_s=each * 60, status_code=200) for each in range(9)
    ]
    before = api.count("GET /app/hook/deliveries?")

    await say(server, "redeliver", made[4].guid, "--dry-run")

    assert api.count("GET /app/hook/deliveries?") == before + 3


async def test_what_cannot_be_is_one_line(api: DeliveriesApi, server: Hub) -> None:
    there = api.add("push", PUSH, status_code=0)
    cases: dict[tuple[str, ...], tuple[int, str]] = {
        ("redeliver", "--since", "soon"): (os.EX_USAGE, "is no duration such as"),
        ("redeliver", "--since", "-1h"): (os.EX_USAGE, "is no duration such as"),
        ("redeliver", there.guid, "nowhere"): (os.EX_USAGE, "redeliver nowhere"),
        ("redeliver", "--config", "none.toml"): (os.EX_CONFIG, "none.toml"),
        ("status", "--url", "http://127.0.0.1:9"): (os.EX_UNAVAILABLE, "no hub"),
    }
    for words, (code, part) in cases.items():
        done = await say(server, *words)
        assert done.returncode == code, (words, done)
        [line] = done.stderr.splitlines()
        assert line.startswith("dispatchd: ")
        assert part in line
    # Not even the one that is there was asked for.
    assert api.redelivered == []
    for refusal, code, part in (
        (Refusal(status=403, message="Resource not accessible"), os.EX_USAGE, "403"),
        (Refusal(status=401, message="Bad credentials"), os.EX_USAGE, "401"),
        (Refusal(status=429), os.EX_UNAVAILABLE, "429"),
        (Refusal(status=503, message="oops"), os.EX_UNAVAILABLE, "503"),
    ):
        api.away = refusal
        done = await say(server, "redeliver")
        assert done.returncode == code, done
        [line] = done.stderr.splitlines()
        assert part in line
    api.away = None
    (server.folder / "app-key.pem").unlink()
    done = await say(server, "redeliver")
    assert done.returncode == os.EX_CONFIG
    assert len(done.stderr.splitlines()) == 1


async def test_a_hub_with_a_token_has_no_deliveries_to_ask_for(tmp_path: Path) -> None:
    async with hub(prepared_with_token(tmp_path / "hub"), more=CONFIG) as server:
        done = await say(server, "redeliver")
        status = json.loads((await say(server, "status", "--json")).stdout)

        assert done.returncode == os.EX_CONFIG
        assert "github.app_id: must be set" in done.stderr
        assert (status["ingest"], status["app_id"]) == ("webhook", 0)
        assert "GitHub sends events" in (await say(server, "status")).stdout


async def test_a_hub_without_github_says_so(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as server:
        done = await say(server, "status")

        assert done.returncode == 0
        assert "nothing" in done.stdout
        assert (await say(server, "redeliver")).returncode == os.EX_CONFIG


async def test_the_status_is_for_people_too(server: Hub) -> None:
    done = await say(server, "status")

    pairs = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert pairs["GitHub"].strip() == "GitHub sends events"
    assert pairs["App"].strip() == "4711"
    assert pairs["complete until"].strip().startswith("20")
    assert "checks owed" in pairs
