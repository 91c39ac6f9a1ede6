"""Deliveries fetched from GitHub: none lost within the retention, none twice, whatever the list and the hub do."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from bench.postgres import Postgres

from support.clock import advance
from support.deliveries_api import DeliveriesApi, Refusal, deliveries_api
from support.github_events import HEAD, real
from support.github_hub import deliveries, jobs, send
from support.hub import HubHere
from support.machine import Machine
from support.polling import CLOSED, ISSUES, OPENED, polling_hub, status_of
from support.torture import few
from support.until import in_time, until

pytestmark = pytest.mark.postgresql_in("torture")

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
async def api() -> AsyncIterator[DeliveriesApi]:
    async with deliveries_api() as found:
        yield found


@pytest.fixture
async def server(
    tmp_path: Path, api: DeliveriesApi, database_url: str
) -> AsyncIterator[HubHere]:
    async with polling_hub(tmp_path / "hub", api, database_url=database_url) as found:
        yield found


async def kept(server: HubHere) -> dict[str, dict[str, Any]]:
    """Return the deliveries by GUID."""
    return {each["id"]: each for each in await deliveries(server)}


def log_of(server: HubHere, event: str) -> list[dict[str, Any]]:
    lines = (server.folder / "hub.log").read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in found if each["event"] == event]


@pytest.mark.postgresql_in("host")
async def test_an_event_becomes_the_same_jobs_as_by_webhook(
    api: DeliveriesApi, server: HubHere
) -> None:
    payload = {**OPENED, "number": 2**53 + 1, "zürich": "🚀 \ud83d"}
    entry = api.add("pull_request", payload)

    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()

    tests, lint = await jobs(server)
    assert (tests["dag_name"], lint["dag_name"]) == ("ci", "lint")
    assert (tests["sha"], tests["delivery_id"]) == (HEAD, entry.guid)
    found = (await kept(server))[entry.guid]
    assert (found["target"], found["state"]) == ("integration/4711", "queued")
    held = await Machine(http=server.http).pull()
    assert held.job["payload"] == payload
    assert held.job["headers"]["x-github-event"] == "pull_request"
    assert held.job["headers"]["x-github-delivery"] == entry.guid
    assert "signature" not in json.dumps(held.job["headers"])
    # And never again.
    assert api.fetched[entry.guid] == 1


async def test_what_nothing_can_want_is_noted_and_never_fetched(
    api: DeliveriesApi, server: HubHere
) -> None:
    star = api.add("star", {"action": "created"})
    closed = api.add("pull_request", CLOSED)
    ping = api.add("ping", {})
    wanted = api.add("push", real("push/00"))

    await api.until(lambda: api.fetched[wanted.guid] == 1)
    await api.sweeps()

    found = await kept(server)
    assert {each.guid for each in (star, closed, ping, wanted)} == {*found}
    assert found[star.guid]["routing"] == "no rule is for the event star"
    assert "the action closed isn't one of" in found[closed.guid]["routing"]
    assert (found[ping.guid]["state"], found[ping.guid]["payload_hash"]) == (
        "ignored",
        "",
    )
    assert sum(api.fetched.values()) == 1


async def test_the_older_event_is_taken_in_first_whatever_the_ids_and_the_pages(
    tmp_path: Path, database_url: str
) -> None:
    async with deliveries_api(per_page=3) as api:
        made = [
            api.add("push", real("push/00"), ago_s=ago_s)
            for ago_s in (50, 10, 60, 20, 30, 40, 70, 5)
        ]
        async with polling_hub(
            tmp_path / "hub", api, database_url=database_url
        ) as server:
            await api.until(lambda: len(api.fetched) == 8)
            await api.sweeps()
            found = [job["delivery_id"] for job in await jobs(server)]

    in_order = sorted(made, key=lambda each: each.delivered_at)
    assert found == [each.guid for each in in_order]


async def test_an_entry_that_turns_up_late_is_found(
    api: DeliveriesApi, server: HubHere
) -> None:
    first = api.add("push", real("push/00"))
    await api.until(lambda: api.fetched[first.guid] == 1)
    await api.sweeps()

    late = api.add("push", real("push/00"), ago_s=300)

    await api.until(lambda: api.fetched[late.guid] == 1)
    await api.sweeps()
    assert {*await kept(server)} == {first.guid, late.guid}


async def test_one_that_is_listed_and_not_there_yet_is_taken_in_once_it_is(
    api: DeliveriesApi, server: HubHere
) -> None:
    race = api.add("push", real("push/00"), missing=3)
    empty = api.add("pull_request", None, action="opened")
    other = api.add("push", real("push/00"))
    await api.until(lambda: api.fetched[other.guid] == 1)
    assert api.fetched[race.guid] == 0

    await api.in_time(lambda: api.fetched[race.guid] == 1)
    await api.in_time(lambda: api.fetched[empty.guid] > 1)
    await api.sweeps()
    assert {*await kept(server)} == {race.guid, other.guid}
    empty.payload = OPENED
    seen = api.fetched[empty.guid]
    await api.in_time(lambda: api.fetched[empty.guid] > seen)
    await api.sweeps()

    assert {*await kept(server)} == {race.guid, other.guid, empty.guid}
    assert len(await jobs(server)) == 4


async def test_a_restart_goes_back_to_one_that_was_not_there(
    api: DeliveriesApi, server: HubHere
) -> None:
    absent = api.add("push", real("push/00"), missing=10_000)
    await api.until(lambda: absent.missing < 10_000)
    # What is newer moves on by more than the overlap.
    api.ahead_s += 1200
    for _ in range(3):
        newer = api.add("push", real("push/00"))
    await api.until(lambda: api.fetched[newer.guid] == 1)
    await api.sweeps()
    await server.stop()
    last = api.add("push", real("push/00"))
    absent.missing = 0

    await server.start()

    await api.until(lambda: api.fetched[absent.guid] == 1)
    await api.until(lambda: api.fetched[last.guid] == 1)
    await api.sweeps()
    assert len(await jobs(server)) == 5


async def test_one_that_never_is_there_is_given_up_after_an_hour_and_says_so(
    api: DeliveriesApi, server: HubHere
) -> None:
    absent = api.add("push", real("push/00"), missing=10_000)
    await api.until(lambda: absent.missing < 10_000)
    await api.sweeps()
    assert log_of(server, "github_delivery_lost") == []

    api.ahead_s += 1.1 * HOUR_S
    await api.sweeps(3)
    asked = absent.missing
    await api.sweeps(3)

    assert absent.missing == asked
    [line] = log_of(server, "github_delivery_lost")
    assert line["delivery"] == absent.guid
    absent.missing = 0
    # Somebody has it sent once more: that is another try of the same event.
    api.again(absent)
    await api.until(lambda: api.fetched[absent.guid] == 1)
    await api.sweeps()
    assert [*await kept(server)] == [absent.guid]


async def test_a_payload_that_cannot_be_read_delays_no_other(
    api: DeliveriesApi, server: HubHere
) -> None:
    bad = [
        api.add("push", "no JSON", action="opened"),
        api.add("push", "[1]", action="opened"),
        api.add("push", ["a list"]),
        api.add("push", {"ref": float("nan")}, as_text=True),
        api.add("push", "[" * 100_000),
    ]
    broken = api.add("push", real("push/00"), broken=10_000)
    good = api.add("pull_request", OPENED, as_text=True)

    await api.in_time(lambda: api.fetched[good.guid] == 1)
    await api.sweeps()

    found = await kept(server)
    assert {*found} == {good.guid, *(each.guid for each in bad)}
    for each in bad:
        assert found[each.guid]["state"] == "ignored"
        assert "can't be read" in found[each.guid]["routing"]
    broken.broken = 0
    await api.in_time(lambda: api.fetched[broken.guid] == 1)
    await api.sweeps()
    assert len(await jobs(server)) == 3


async def test_what_github_refuses_to_hand_out_delays_no_other(
    api: DeliveriesApi, server: HubHere
) -> None:
    refused = api.add("push", real("push/00"), broken=10_000, broken_by=403)
    good = api.add("pull_request", OPENED)

    await api.in_time(lambda: api.fetched[good.guid] == 1)
    await api.sweeps()

    assert api.fetched[refused.guid] == 0
    assert {*await kept(server)} == {good.guid}


async def test_several_in_a_row_that_cannot_be_had_delay_no_other(
    api: DeliveriesApi, server: HubHere
) -> None:
    bad = [
        api.add("push", real("push/00"), ago_s=60 - each, broken=10_000)
        for each in range(3)
    ]
    good = api.add("push", real("push/00"))

    await api.in_time(lambda: api.fetched[good.guid] == 1)
    await api.sweeps()
    assert [*await kept(server)] == [good.guid]
    newer = api.add("push", real("push/00"))
    await api.in_time(lambda: api.fetched[newer.guid] == 1)

    for each in bad:
        each.broken = 0
    await api.in_time(lambda: len(api.fetched) == 5)
    await api.sweeps()
    assert len(await jobs(server)) == 5


async def test_github_s_own_trouble_changes_no_order(
    api: DeliveriesApi, server: HubHere
) -> None:
    made = [
        api.add("push", real("push/00"), ago_s=60 - each, broken=10_000)
        for each in range(5)
    ]
    await api.in_time(lambda: 10_000 - made[1].broken > 4)
    made.append(api.add("push", real("push/00"), broken=10_000))
    await api.in_time(lambda: made[2].broken < 10_000)

    for each in made:
        each.broken = 0

    await api.in_time(lambda: len(api.fetched) == 6)
    await api.sweeps()
    found = [job["delivery_id"] for job in await jobs(server)]
    assert found == [each.guid for each in made]


async def test_an_entry_from_the_future_hides_nothing(
    api: DeliveriesApi, server: HubHere
) -> None:
    odd = api.add("push", real("push/00"), ago_s=-24 * HOUR_S)
    await api.until(lambda: api.fetched[odd.guid] == 1)
    await api.sweeps()

    entry = api.add("push", real("push/00"))

    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()
    await server.stop()
    last = api.add("push", real("push/00"))
    await server.start()
    await api.until(lambda: api.fetched[last.guid] == 1)
    await api.sweeps()
    assert len(await jobs(server)) == 3


async def test_a_redelivery_of_what_is_known_makes_no_second_job(
    api: DeliveriesApi, server: HubHere
) -> None:
    entry = api.add("push", real("push/00"))
    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()

    api.again(entry)
    await api.sweeps(3)

    assert api.fetched[entry.guid] == 1
    assert len(await jobs(server)) == 1


async def test_two_tries_of_a_new_event_make_one_job_of_whichever_is_there(
    api: DeliveriesApi, server: HubHere
) -> None:
    entry = api.add("push", real("push/00"), missing=10_000, ago_s=20)
    other = api.again(entry, missing=0)

    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps(3)

    assert other.missing == 0
    assert api.fetched[entry.guid] == 1
    assert len(await jobs(server)) == 1


async def test_nothing_from_before_the_first_start_but_its_last_minutes_counts(
    tmp_path: Path, database_url: str
) -> None:
    async with deliveries_api() as api:
        old = api.add("push", real("push/00"), ago_s=HOUR_S)
        new = api.add("push", real("push/00"), ago_s=60)
        async with polling_hub(
            tmp_path / "hub", api, database_url=database_url
        ) as server:
            await api.until(lambda: api.fetched[new.guid] == 1)
            await api.sweeps()
            assert [*await kept(server)] == [new.guid]
            assert api.fetched[old.guid] == 0


async def test_what_came_while_the_hub_was_down_is_fetched(
    api: DeliveriesApi, server: HubHere
) -> None:
    await api.sweeps()
    await server.stop()
    api.ahead_s += 2 * 24 * HOUR_S
    made = [
        api.add("push", real("push/00"), ago_s=ago_h * HOUR_S) for ago_h in (47, 30, 1)
    ]

    await server.start()

    await api.until(lambda: len(api.fetched) == 3)
    await api.sweeps()
    assert {*await kept(server)} == {each.guid for each in made}
    assert log_of(server, "github_deliveries_lost") == []


async def test_a_restart_reads_no_more_of_the_list_than_it_has_to(
    tmp_path: Path, database_url: str
) -> None:
    async with deliveries_api(per_page=2) as api:
        folder = tmp_path / "hub"
        async with polling_hub(folder, api, database_url=database_url) as server:
            for _ in range(10):
                old = api.add("push", real("push/00"))
            await api.until(lambda: api.fetched[old.guid] == 1)
            api.ahead_s += 1200
            new = api.add("push", real("push/00"))
            await api.until(lambda: api.fetched[new.guid] == 1)
            await api.sweeps()
            await server.stop()
            before = api.count("GET /app/hook/deliveries?")

            await server.start()
            await api.sweeps(2)

            pages = api.count("GET /app/hook/deliveries?") - before
            first_pages = 2
            assert pages <= first_pages


async def test_an_outage_longer_than_the_retention_says_what_is_lost(
    api: DeliveriesApi, server: HubHere
) -> None:
    entry = api.add("push", real("push/00"))
    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()
    await server.stop()
    api.ahead_s += 4 * 24 * HOUR_S
    gone = api.add("push", real("push/00"), ago_s=80 * HOUR_S)
    there = api.add("push", real("push/00"), ago_s=70 * HOUR_S)

    await server.start()

    await api.until(lambda: api.fetched[there.guid] == 1)
    await api.sweeps(3)
    assert {*await kept(server)} == {entry.guid, there.guid}
    [line] = log_of(server, "github_deliveries_lost")
    assert line["hours"] == pytest.approx(24, abs=0.2)
    assert api.fetched[gone.guid] == 0
    await server.stop()
    await server.start()
    await api.sweeps()
    assert len(log_of(server, "github_deliveries_lost")) == 1
    [loss] = (await status_of(server))["losses"]
    assert loss["until"] - loss["since"] == pytest.approx(24 * HOUR_S, abs=600)


async def test_a_quiet_week_is_no_outage(api: DeliveriesApi, server: HubHere) -> None:
    await api.sweeps()
    for _ in range(4):
        api.ahead_s += 2 * 24 * HOUR_S
        await api.sweeps()

    await server.stop()
    await server.start()
    await api.sweeps()

    assert log_of(server, "github_deliveries_lost") == []


@pytest.mark.parametrize(
    "refusal",
    few(
        [
            Refusal(
                status=403,
                headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": "in 30 s"},
                message="no",
            ),
            Refusal(status=403, headers={"retry-after": "30"}, message="no"),
            Refusal(status=429, headers={"retry-after": "30"}),
        ],
        1,
    ),
    ids=["reset", "retry-after-403", "retry-after-429"],
)
@pytest.mark.parametrize("ahead_s", [0, 5 * HOUR_S], ids=["same clock", "other clock"])
async def test_a_limit_is_kept_for_as_long_as_github_says(
    api: DeliveriesApi, server: HubHere, refusal: Refusal, ahead_s: float
) -> None:
    api.ahead_s = ahead_s
    await api.sweeps()
    if "x-ratelimit-reset" in refusal.headers:
        reset = str(int(api.now()) + 30)
        refusal.headers = {**refusal.headers, "x-ratelimit-reset": reset}
    entry = api.add("push", real("push/00"))
    api.refusals.append(refusal)
    await api.until(lambda: not api.refusals)
    calls, began = len(api.calls), anyio.current_time()

    await api.in_time(lambda: len(api.calls) > calls)

    waited = anyio.current_time() - began
    # A second or two are lost by whole ones; a minute is for limits that don't say for how long.
    assert 28 <= waited < 60
    await api.until(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()
    assert len(await jobs(server)) == 1
    assert (await status_of(server))["trouble"] == ""


async def test_a_limit_that_is_over_already_does_not_end_the_backoff(
    tmp_path: Path, api: DeliveriesApi
) -> None:
    async with polling_hub(tmp_path / "hub", api, interval_s=5):
        await api.sweeps()
        api.add("push", real("push/00"))
        began = anyio.current_time()
        api.refusals += [Refusal(status=429, headers={"retry-after": "0"})] * 10

        await api.in_time(lambda: not api.refusals)

        # With the back-off most of them are drawn waits of up to a minute; without it none is longer than a second.
        assert anyio.current_time() - began > 20
        await api.in_time(lambda: len(api.fetched) == 1)


async def test_a_limit_that_does_not_say_for_how_long_holds_for_a_minute(
    api: DeliveriesApi, server: HubHere
) -> None:
    await api.sweeps()
    api.refusals.append(
        Refusal(status=403, message="You have exceeded a secondary rate limit")
    )
    await api.until(lambda: not api.refusals)

    async def trouble() -> bool:
        return bool((await status_of(server))["trouble"])

    await until(trouble)

    [line] = await until(lambda: log_of(server, "github_deliveries_wait"))

    assert 60 <= line["next_in_s"] <= 66
    found = await status_of(server)
    assert "secondary rate limit" in found["trouble"]
    assert found["trouble_at"] > 0


@pytest.mark.parametrize("status", [401, 403])
async def test_what_is_not_permitted_is_said_once_and_asked_rarely(
    api: DeliveriesApi, server: HubHere, status: int
) -> None:
    await api.sweeps()
    api.away = Refusal(status=status, message="Resource not accessible by integration")

    async def trouble() -> bool:
        return bool((await status_of(server))["trouble"])

    await until(trouble)

    [line] = await until(lambda: log_of(server, "github_deliveries_wait"))

    assert 30 <= line["next_in_s"] <= 90
    assert "Resource not accessible" in line["reason"]
    assert (await server.http.get("/readyz")).status_code == 200


async def test_an_api_that_is_away_is_asked_again_until_it_is_back(
    api: DeliveriesApi, server: HubHere
) -> None:
    await api.sweeps()
    api.away = Refusal(status=502, message="oops")
    entry = api.add("push", real("push/00"))
    calls = len(api.calls)
    await api.in_time(lambda: len(api.calls) > calls + 3)
    assert "502" in (await status_of(server))["trouble"]

    api.away = None

    await api.in_time(lambda: api.fetched[entry.guid] == 1)
    await api.sweeps()
    assert (await status_of(server))["trouble"] == ""
    assert len(log_of(server, "github_deliveries_wait")) == 1
    assert len(log_of(server, "github_deliveries_go_on")) == 1


@pytest.mark.postgresql_in("host")
async def test_a_full_queue_ends_the_sweep_and_loses_nothing(
    tmp_path: Path, api: DeliveriesApi, database_url: str
) -> None:
    options = {"more": "[queue]\nmost = 3\n", "interval_s": 0.05}
    folder = tmp_path / "hub"
    async with polling_hub(folder, api, database_url=database_url, **options) as server:
        await api.sweeps()
        # Over a longer time than a walk overlaps.
        api.ahead_s += HOUR_S
        made = [
            api.add("push", real("push/00"), ago_s=3000 - 400 * each)
            for each in range(8)
        ]

        async def is_full() -> bool:
            return "queue.most" in (await status_of(server))["trouble"]

        await until(is_full)
        assert len(await jobs(server)) == 3
        # What it has seen by then is of no use to the next process.
        await server.stop()
        await server.start()
        machine = Machine(http=server.http)
        taken = []
        for _ in range(8):
            held = await machine.pull(wait="30")
            taken.append(held.job["delivery_id"])
            await held.finish()

        assert taken == [each.guid for each in made]
        await api.sweeps()
        found = await status_of(server)
        assert found["trouble"] == ""
        assert {*await kept(server)} == {*taken}
        assert len(await jobs(server)) == 8


@pytest.mark.host
async def test_a_database_that_is_away_loses_nothing(
    tmp_path: Path, api: DeliveriesApi, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    async with polling_hub(tmp_path / "hub", api, database_url=url) as server:
        await api.sweeps()
        with postgresql.away(url):
            entry = api.add("push", real("push/00"))
        await api.until(lambda: api.fetched[entry.guid] >= 1)
        await api.sweeps()

        assert [*await kept(server)] == [entry.guid]
        assert len(await jobs(server)) == 1


async def test_a_backlog_of_more_pages_than_are_read_in_one_go_is_taken_in_whole(
    tmp_path: Path,
) -> None:
    async with deliveries_api(per_page=4) as api:
        folder = tmp_path / "hub"
        async with polling_hub(folder, api) as server:
            await api.sweeps()
            await server.stop()
            api.ahead_s += 48 * HOUR_S
            made = []
            for number in range(200):
                ago_s = 47 * HOUR_S - number * 500
                if number % 10:
                    api.add("star", {"action": "created"}, ago_s=ago_s)
                else:
                    made.append(api.add("push", real("push/00"), ago_s=ago_s))
            # A limit and a cursor that isn't taken, in the middle of it.
            api.no_cursors = 1
            await server.start()
            await api.until(lambda: api.no_cursors == 0)
            # And a restart after it has been read in two goes.
            listed = api.count("GET /app/hook/deliveries?")
            await api.until(
                lambda: api.count("GET /app/hook/deliveries?") > listed + 44
            )
            assert not api.fetched
            await server.stop()
            await server.start()
            api.refusals.append(Refusal(status=429, headers={"retry-after": "9"}))

            await api.in_time(lambda: len(api.fetched) == len(made))
            await api.sweeps()

            found = [job["delivery_id"] for job in await jobs(server)]
            assert found == [each.guid for each in made]
            assert {*api.fetched.values()} == {1}
            behind = log_of(server, "github_deliveries_behind")
            assert [line["pages"] for line in behind][-2:] == [20, 40]
            status = await status_of(server)
            assert status["losses"] == []
            assert status["swept_at"] > api.now() - HOUR_S


async def test_the_hub_fetches_what_it_has_missed_where_github_sends_events(
    tmp_path: Path, api: DeliveriesApi, database_url: str
) -> None:
    folder = tmp_path / "hub"
    options = {"ingest": "webhook", "database_url": database_url}
    async with polling_hub(folder, api, **options) as server:
        come = api.add("push", real("push/00"), status_code=202)
        assert (await send(server, "push", come.payload, come.guid)).is_success
        await api.until(lambda: api.count("GET /app/hook/deliveries?") == 1)
        await server.stop()
        missed = api.add("push", real("push/00"))

        await server.start()

        await api.until(lambda: api.fetched[missed.guid] == 1)
        late = await send(server, "push", missed.payload, missed.guid)
        assert late.status_code in {200, 202}

        async def are_both_there() -> bool:
            return len(await jobs(server)) == 2

        # It has been fetched; its job comes a moment later.
        await in_time(are_both_there)
        assert {*await kept(server)} == {come.guid, missed.guid}


@pytest.mark.postgresql_in("host")
async def test_an_event_that_comes_both_ways_at_once_makes_one_job(
    api: DeliveriesApi, server: HubHere
) -> None:
    for _ in range(10):
        entry = api.add("push", real("push/00"))
        gate = api.gates[entry.guid] = anyio.Event()
        path = f"GET /app/hook/deliveries/{entry.id}"
        await api.until(lambda path=path: api.count(path) == 1)  # type: ignore[misc]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, server, "push", entry.payload, entry.guid)
            gate.set()
        await api.sweeps()

    found = [job["delivery_id"] for job in await jobs(server)]
    assert len(found) == len({*found}) == 10
    assert len(await deliveries(server)) == 10


HELD = "github_lock_held"


@pytest.mark.postgresql_in("host")
@pytest.mark.host
async def test_of_two_hubs_on_one_database_one_fetches_and_the_other_follows(
    tmp_path: Path, api: DeliveriesApi, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    one, other = tmp_path / "one", tmp_path / "other"
    async with (
        polling_hub(one, api, database_url=url) as first,
        polling_hub(other, api, database_url=url) as second,
    ):
        both = [first, second]
        await until(lambda: [each for each in both if log_of(each, HELD)])
        [holder] = [each for each in both if log_of(each, HELD)]
        [follower] = [each for each in both if each is not holder]
        made = [api.add("push", real("push/00"), ago_s=each) for each in (9, 5, 1)]
        await api.until(lambda: len(api.fetched) == 3)
        await api.sweeps()
        assert {*api.fetched.values()} == {1}
        assert (await status_of(follower))["swept_at"] > 0

        await holder.stop()
        last = api.add("push", real("push/00"))

        await api.until(lambda: api.fetched[last.guid] == 1)
        await api.sweeps()
        assert {*api.fetched.values()} == {1}
        found = [job["delivery_id"] for job in await jobs(follower)]
        assert found == [each.guid for each in (*made, last)]


async def test_the_metrics_say_how_it_goes(api: DeliveriesApi, server: HubHere) -> None:
    await api.sweeps(3)
    text = (await server.http.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")

    assert 0 <= float(lines["dispatchd_hub_github_watermark_age_seconds"]) < 30
    assert lines['dispatchd_hub_checks_owed{failing="no"}'] == "0.0"
    assert lines['dispatchd_hub_checks_owed{failing="yes"}'] == "0.0"


@pytest.mark.postgresql_in("host")
async def test_the_ledger_outlives_what_is_pruned(
    tmp_path: Path, api: DeliveriesApi, database_url: str
) -> None:
    folder = tmp_path / "hub"
    async with polling_hub(
        folder, api, database_url=database_url, rules=ISSUES
    ) as server:
        entry = api.add("issues", real("issues/17-opened"))
        await api.until(lambda: api.fetched[entry.guid] == 1)
        await api.sweeps()
        await (await Machine(http=server.http).pull()).finish()

        reply = await server.http.post("/api/v1/prune", json={"days": 0})
        await server.stop()
        await server.start()
        await api.sweeps(3)

        assert reply.json() == {"removed": 1}
        assert [*await kept(server)] == [entry.guid]
        assert await jobs(server) == []
        assert api.fetched[entry.guid] == 1


async def test_a_clock_that_is_months_ahead_forgets_no_delivery_that_may_come_again(
    tmp_path: Path, api: DeliveriesApi, database_url: str
) -> None:
    folder = tmp_path / "hub"
    async with polling_hub(
        folder, api, database_url=database_url, rules=ISSUES
    ) as server:
        entry = api.add("issues", real("issues/17-opened"))
        await api.until(lambda: api.fetched[entry.guid] == 1)
        await api.sweeps()
        await (await Machine(http=server.http).pull()).finish()

        server.time.wall_set_by_s += 90 * DAY_S
        for _ in range(2):
            await advance(HOUR_S)
            await api.sweeps()
        server.time.wall_set_by_s -= 90 * DAY_S
        await api.sweeps(3)

        assert [*await kept(server)] == [entry.guid]
        assert [each["state"] for each in await jobs(server)] == ["succeeded"]
        assert api.fetched[entry.guid] == 1
