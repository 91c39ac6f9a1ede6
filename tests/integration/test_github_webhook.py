"""Webhooks of GitHub: nothing is acknowledged that isn't durable, nothing comes twice, nothing is unexplained."""

import json
import random
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from bench.postgres import Postgres

from support.clock import advance, within
from support.github import app_key
from support.github_events import (
    HEAD,
    REAL,
    REPOSITORY,
    SECRET,
    comment,
    event_of,
    pull_request,
    real,
    signature,
)
from support.github_hub import (
    CONFIG,
    NEW_SECRET,
    TOKEN,
    deliveries,
    jobs,
    prepared,
    send,
)
from support.hub import Hub, HubHere, hub
from support.hub_process import hub as hub_process
from support.machine import Machine, refuses
from support.mutations import Flood

pytestmark = pytest.mark.postgresql_in("torture")

MIB = 1024 * 1024
SIGNATURE = "X-Hub-Signature-256"
NO_HOOK = {
    "X-GitHub-Hook-Installation-Target-Type": None,
    "X-GitHub-Hook-Installation-Target-ID": None,
}


@pytest.fixture
async def server(tmp_path: Path, database_url: str) -> AsyncIterator[Hub]:
    folder = prepared(tmp_path / "hub")
    async with hub(folder, database_url=database_url, more=CONFIG) as found:
        yield found


@pytest.mark.postgresql_in("host")
async def test_an_event_becomes_the_jobs_of_its_rules(server: Hub) -> None:
    text = json.dumps(pull_request()).replace('"number": 2', '"number":   2')

    reply = await send(server, "pull_request", text, "d-1")

    assert reply.status_code == 202
    made = await jobs(server)
    assert [job["id"] for job in made] == reply.json()["jobs"]
    tests, lint = made
    assert (tests["dag_name"], tests["priority"], tests["state"]) == ("ci", 3, "queued")
    assert (lint["dag_name"], lint["priority"]) == ("lint", 0)
    assert tests["sha"] == HEAD
    assert tests["ref"] == "refs/pull/2/head"
    assert (tests["repository_name"], tests["binding_id"]) == (REPOSITORY, "tests")
    assert (tests["pull_request_number"], tests["delivery_id"]) == (2, "d-1")
    held = await Machine(http=server.http).pull()
    assert held.id == tests["id"]
    assert f'"payload": {text}' in held.text
    assert held.job["headers"]["x-github-event"] == "pull_request"
    assert "signature" not in json.dumps(held.job["headers"])


async def test_what_became_of_a_delivery_can_be_asked(server: Hub) -> None:
    await send(server, "pull_request", pull_request(), "d-1")
    await send(server, "pull_request", pull_request("closed"), "d-2")
    await send(server, "star", real("issues/17-opened"), "d-3")
    await send(server, "ping", real("ping/02"), "d-4")

    taken, closed, unsupported, ping = await deliveries(server)

    assert (taken["target"], taken["state"]) == ("integration/4711", "queued")
    assert len(taken["job_ids"]) == 2
    assert taken["routing"] == "rule tests: workflow ci; rule lint: workflow lint"
    assert (closed["event"], closed["action"]) == ("pull_request", "closed")
    assert [each["state"] for each in (closed, unsupported, ping)] == ["ignored"] * 3
    assert "the action closed isn't one of opened" in closed["routing"]
    assert unsupported["routing"] == "no rule is for the event star"
    assert ping["routing"] == "GitHub asks whether this hub is there; it is"


async def test_a_signature_of_each_secret_counts_and_no_other(
    server: Hub,
) -> None:
    event = pull_request()

    for secret in (SECRET, NEW_SECRET):
        own = {**event, "secret": secret}
        assert (await send(server, "push", own, secret=secret)).is_success
    for bad in (
        await send(server, "push", event, secret="guessed"),
        await send(server, "push", event, headers={SIGNATURE: None}),
        await send(server, "push", event, headers={SIGNATURE: "sha256="}),
        await send(server, "push", event, headers={SIGNATURE: "sha1=" + "0" * 40}),
        await send(server, "push", "other", headers={SIGNATURE: signature(b"body")}),
    ):
        refuses(bad, 401)
    assert len(await deliveries(server)) == 2


@pytest.mark.parametrize("name", ["X-GitHub-Delivery", "X-GitHub-Event"])
async def test_a_webhook_without_what_each_has_is_refused(
    server: Hub, name: str
) -> None:
    for value in (None, ""):
        reply = await send(server, "push", pull_request(), headers={name: value})
        assert name in refuses(reply, 400)
    assert await deliveries(server) == []


async def test_a_replayed_delivery_makes_no_second_job(server: Hub) -> None:
    first = await send(server, "pull_request", pull_request(), "d-1")
    again = await send(server, "pull_request", pull_request("closed"), "d-1")
    changed = {**pull_request(), "x": 1}
    other = await send(server, "pull_request", changed, "d-1", target="9")

    assert (first.status_code, other.status_code) == (202, 202)
    assert (again.status_code, again.json()) == (200, {"message": "duplicate"})
    assert len(await jobs(server)) == 4
    assert len(await deliveries(server)) == 2


@pytest.mark.postgresql_in("host")
async def test_a_body_under_another_delivery_id_makes_no_second_job(
    server: Hub,
) -> None:
    body = pull_request()
    first = await send(server, "pull_request", body, "d-1")
    replays = [
        await send(server, "pull_request", body, "d-2"),
        await send(server, "pull_request", body, "d-3", target="9"),
        # Nor is the hook.
        await send(server, "pull_request", body, "d-1", target="9"),
        await send(server, "pull_request", body, "d-1", headers=NO_HOOK),
        # Neither is the event's name signed.
        await send(server, "check_run", body, "d-4"),
        await send(server, "pull_request", body, "d-5", form=True),
    ]
    ignored = {**real("push/00"), "repository": {"full_name": "o/none", "id": 3}}
    for number in range(2):
        await send(server, "star", ignored, f"d-6{number}")

    assert first.status_code == 202
    for reply in replays:
        assert (reply.status_code, reply.json()) == (200, {"message": "duplicate"})
    assert len(await jobs(server)) == len(first.json()["jobs"])
    # Nothing is kept of a replay: GitHub's own list may still have its id.
    assert [each["id"] for each in await deliveries(server)] == ["d-1", "d-60"]
    log = server.log_file.read_text()
    assert log.count("webhook_replayed") == 1
    await advance(11)
    # A changed body is another one.
    changed = await send(server, "pull_request", {**body, "x": 1}, "d-7")
    assert changed.status_code == 202


async def test_a_body_without_a_hook_is_known_for_longer_than_its_delivery(
    server: HubHere,
) -> None:
    first = await send(server, "pull_request", pull_request(), "d-1", headers=NO_HOOK)
    await advance(2 * 86_400)
    await server.http.post("/api/v1/prune", json={"days": 1})
    kept = await deliveries(server)

    again = await send(server, "pull_request", pull_request(), "d-1", headers=NO_HOOK)

    assert (first.status_code, kept) == (202, [])
    assert (again.status_code, again.json()) == (200, {"message": "duplicate"})


async def test_what_people_cause_once_more_with_the_same_body_is_taken_in_again(
    server: Hub,
) -> None:
    for event in ("workflow_dispatch", "repository_dispatch", "check_run"):
        body = {**pull_request(), "event": event}
        for number in range(2):
            reply = await send(server, event, body, f"{event}-{number}")
            assert reply.status_code == 202
    assert len(await deliveries(server)) == 6


async def test_a_body_is_forgotten_with_the_deliveries(server: HubHere) -> None:
    await send(server, "pull_request", pull_request(), "d-1")
    await advance(400 * 86_400)
    await server.http.post("/api/v1/prune", json={"days": 1})

    reply = await send(server, "pull_request", pull_request(), "d-2")

    assert reply.status_code == 202


@pytest.mark.parametrize("headers", [{}, NO_HOOK])
async def test_a_submitted_job_takes_no_events_delivery_over(
    server: Hub, headers: dict[str, str | None]
) -> None:
    event = pull_request()
    made = await send(server, "pull_request", event, "d-1", headers=headers)
    body = {"name": "ci", "scopes": ["submit"]}
    token = (await server.http.post("/api/v1/tokens", json=body)).json()["token"]
    job = {"dag_name": "own", "repository_name": "o/own", "delivery_id": "d-1"}
    submitted = await server.http.post(
        "/api/v1/jobs", json=job, headers={"authorization": f"Bearer {token}"}
    )

    reply = await server.http.post("/api/v1/deliveries/d-1/redeliver")

    assert (made.status_code, submitted.status_code) == (202, 201)
    assert reply.status_code == 201
    names = {each["id"]: each["dag_name"] for each in await jobs(server)}
    assert [names[each] for each in reply.json()["ids"]] == ["ci", "lint"]


@pytest.mark.postgresql_in("host")
async def test_fifty_replays_at_once_make_one_job(server: Hub) -> None:
    statuses: list[int] = []

    async def replay() -> None:
        reply = await send(server, "push", real("push/00"), "d-1")
        statuses.append(reply.status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(replay)

    assert sorted(statuses) == [200] * 49 + [202]
    assert len(await jobs(server)) == 1


async def test_a_form_counts_like_json(server: Hub) -> None:
    event = pull_request()
    event["pull_request"]["title"] = "Zürich & 100% = Grüße + 🚀"

    reply = await send(server, "pull_request", event, form=True)

    assert len(reply.json()["jobs"]) == 2
    held = await Machine(http=server.http).pull()
    assert held.job["payload"] == event


async def test_a_body_that_is_no_event_is_refused_with_words(
    server: Hub,
) -> None:
    refuses(await send(server, "push", "{"), 400)
    refuses(
        await send(server, "push", "{}", headers={"Content-Type": "text/plain"}), 415
    )
    refuses(await send(server, "push", '{"a": NaN}'), 400)
    refuses(await send(server, "push", "[" * 100_000), 400)
    refuses(await send(server, "push", b'{"a": "\xff"}'), 400)
    assert await deliveries(server) == []


@pytest.mark.postgresql_in("host")
async def test_a_newer_commit_takes_the_place_of_an_older_one(
    server: Hub,
) -> None:
    await send(server, "pull_request", pull_request())
    newer = pull_request("synchronize")
    newer["pull_request"]["head"]["sha"] = "b" * 40

    await send(server, "pull_request", newer)

    states = [(job["dag_name"], job["state"]) for job in await jobs(server)]
    assert states == [
        ("ci", "superseded"),
        ("lint", "superseded"),
        ("ci", "queued"),
        ("lint", "queued"),
    ]


async def test_a_command_waits_until_github_was_asked(server: Hub) -> None:
    reply = await send(server, "issue_comment", comment("/run deploy\n/cancel"))

    assert reply.status_code == 202
    assert "if GitHub agrees" in reply.json()["reason"]
    found = await jobs(server)
    assert [job["state"] for job in found] == ["received", "received"]
    assert [job["command"] for job in found] == ["deploy", "cancel"]
    assert (await Machine(http=server.http).ask()).status_code == 204


@pytest.mark.postgresql_in("host")
async def test_a_full_queue_is_a_503_and_the_delivery_may_come_again(
    tmp_path: Path, database_url: str
) -> None:
    folder = prepared(tmp_path / "hub")
    more = f"{CONFIG}\n[queue]\nmost = 2\n"
    async with hub(folder, database_url=database_url, more=more) as server:
        await send(server, "pull_request", pull_request(), "d-1")

        other = {**pull_request(), "other": True}
        full = await send(server, "pull_request", other, "d-2")
        waiting = await send(server, "issue_comment", comment("/run deploy"), "d-3")
        ignored = await send(server, "pull_request", pull_request("closed"), "d-4")

        for reply in (full, waiting):
            refuses(reply, 503)
            assert reply.headers["retry-after"] == "10"
        assert ignored.status_code == 202
        assert [each["id"] for each in await deliveries(server)] == ["d-1", "d-4"]
        machine = Machine(http=server.http)
        for _ in range(2):
            await (await machine.pull()).finish()
        assert (await send(server, "push", real("push/00"), "d-2")).status_code == 202
        assert len(await jobs(server)) == 3


async def test_a_full_disk_is_a_503_and_nothing_is_half_done(tmp_path: Path) -> None:
    async with hub_process(prepared(tmp_path / "hub"), more=CONFIG) as server:
        pid, most = server.process.pid, resource.RLIM_INFINITY
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most))

        refused = [
            await send(server, "pull_request", pull_request(), "d-1"),
            await send(server, "pull_request", pull_request("closed"), "d-2"),
        ]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

        for each in refused:
            refuses(each, 503)
        assert await deliveries(server) == []
        again = await send(server, "pull_request", pull_request(), "d-1")
        assert (again.status_code, len(await jobs(server))) == (202, 2)


@pytest.mark.host
async def test_a_database_that_is_away_is_a_503(
    tmp_path: Path, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    folder = prepared(tmp_path / "hub")
    async with hub(folder, database_url=url, more=CONFIG) as server:
        with postgresql.away(url):
            refuses(await send(server, "pull_request", pull_request(), "d-1"), 503)
        again = await send(server, "pull_request", pull_request(), "d-1")
        assert again.status_code == 202


async def test_a_body_over_the_limit_is_refused(server: Hub) -> None:
    refuses(await send(server, "pull_request", " " * (25 * MIB + 1)), 413)


async def test_every_real_payload_is_routed_or_ignored_with_a_reason(
    server: Hub,
) -> None:
    for path in REAL:
        reply = await send(server, event_of(path), path.read_text())
        assert reply.status_code == 202, (path, reply.text)

    found = await deliveries(server)
    assert len(found) == len(REAL) == 152
    assert all(each["routing"] for each in found)
    routed = [each for each in found if each["job_ids"]]
    assert len(routed) > 5
    assert {each["state"] for each in found} == {"queued", "ignored"}


async def test_mutations_are_routed_or_ignored_with_a_reason(server: Hub) -> None:
    flood = Flood(server, random.Random(20261125))
    await flood.run(50)

    # Thousands of them: tests/torture/test_mutations.py.
    assert flood.statuses == {202: 50}


async def test_a_secret_that_cannot_be_read_stops_the_start_with_one_line(
    tmp_path: Path,
) -> None:
    folder = prepared(tmp_path / "hub")
    (folder / "webhook-secret-2").unlink()

    with pytest.raises(AssertionError) as failed:
        async with hub_process(folder, more=CONFIG):
            pass

    [line] = str(failed.value).splitlines()[:1]
    assert "github.webhook_secret_files[1]: must name a readable file" in line
    assert "Traceback" not in str(failed.value)


async def test_a_hub_without_github_takes_no_webhooks(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        refuses(await send(server, "ping", {}), 404)


async def test_nothing_secret_is_in_the_log_or_the_database(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "hub")
    async with hub(folder, more=CONFIG) as server:
        await send(server, "pull_request", pull_request())
        await send(server, "pull_request", pull_request(), secret="guessed")
        await server.stop()

    everything = (folder / "hub.log").read_text()
    with closing(sqlite3.connect(folder / "hub.db")) as db:
        everything += "\n".join(db.iterdump())
    for secret in (SECRET, NEW_SECRET, TOKEN):
        assert secret not in everything


async def test_strangers_that_send_slowly_delay_nobody(tmp_path: Path) -> None:
    async with hub(prepared(tmp_path / "hub"), more=CONFIG) as server:
        slow = [await anyio.connect_tcp("127.0.0.1", server.port) for _ in range(50)]
        for each in slow:
            await each.send(
                b"POST /webhooks/github HTTP/1.1\r\nHost: hub\r\n"
                b"X-GitHub-Event: push\r\nX-GitHub-Delivery: slow\r\n"
                b"X-Hub-Signature-256: sha256=0\r\nContent-Type: application/json\r\n"
                b"Content-Length: 20000000\r\n\r\n{"
            )
        event = {**pull_request(), "filler": "x" * 3 * MIB}

        with within(20):
            reply = await send(server, "pull_request", event)

        assert reply.status_code == 202
        for each in slow:
            await each.aclose()


async def test_an_app_takes_only_what_comes_by_its_own_hook(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "hub")
    (folder / "app.pem").write_text(app_key())
    own = 'app_id = 4711\nprivate_key_file = "app.pem"'
    more = CONFIG.replace('token_file = "github-token"', own)
    async with hub(folder, more=more) as server:
        ours = await send(server, "push", real("push/00"), "d-1")
        other = {**real("push/00"), "x": 1}
        foreign = await send(server, "push", other, "d-1", target="9")
        unnamed = await send(server, "push", real("push/00"), "d-1", headers=NO_HOOK)

        assert len(ours.json()["jobs"]) == 1
        assert foreign.json()["jobs"] == []
        assert "integration/9 isn't that of the hub's App" in foreign.json()["reason"]
        assert unnamed.json() == {"message": "duplicate"}
