"""Webhooks of senders beside GitHub: each delivery is one job, nobody else makes one, and nothing is unexplained."""

import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread

from dispatchd.errors import ConfigError
from dispatchd.hub.api.webhooks import Webhooks
from dispatchd.hub.config.load import FILE, load
from dispatchd.hub.context import Context
from dispatchd.hub.domain.webhooks.delivery import job_id_of, read_event
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.queue.webhooks import Arrival, WebhookInbox
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.protocol.contracts import check
from support import webhooks
from support.cli import command
from support.github_hub import deliveries, jobs
from support.hub import Hub, HubHere, hub
from support.machine import Machine
from support.threads import at_once
from support.webhooks import (
    CONFIG,
    FORGE,
    LAB,
    OLD_SECRET,
    alertmanager,
    gitea,
    gitlab,
    plain,
    post,
    prepared,
    real,
    signed_gitlab,
)

pytestmark = pytest.mark.postgresql_in("torture")

ZEROS = "0" * 40


@pytest.fixture
async def server(tmp_path: Path, database_url: str) -> AsyncIterator[HubHere]:
    folder = prepared(tmp_path / "hub")
    async with hub(folder, database_url=database_url, more=CONFIG) as found:
        yield found


def log(server: Hub, event: str) -> list[dict[str, Any]]:
    lines = server.log_file.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in found if each["event"] == event]


async def counted(server: Hub) -> dict[str, float]:
    """Return the metric of deliveries, by its labels."""
    name = "dispatchd_hub_webhook_deliveries_total"
    lines = (await server.http.get("/metrics")).text.splitlines()
    pairs = [line.removeprefix(name).split() for line in lines if name + "{" in line]
    return {labels: float(value) for labels, value in pairs}


def same(payload: dict[str, Any], *, repo_id: int = 61) -> dict[str, Any]:
    """Return Gitea's pull request with another origin."""
    copy: dict[str, Any] = json.loads(json.dumps(payload))
    copy["pull_request"]["head"]["repo_id"] = repo_id
    return copy


@pytest.mark.postgresql_in("host")
async def test_the_deliveries_of_each_sender_become_jobs(server: HubHere) -> None:
    now = server.context.now()
    replies = [
        await gitea(server, real("gitea/push"), "g-1"),
        await gitea(server, real("gitea/pull_request"), "g-2", "pull_request"),
        await gitlab(server, real("gitlab/push"), "l-1"),
        await gitlab(server, real("gitlab/merge_request"), "l-2"),
        await signed_gitlab(server, real("gitlab/tag_push"), "s-1", now),
        await alertmanager(server, real("alertmanager/firing")),
        await plain(server, {"project": "a/b", "target": {"refs": ["refs/heads/x"]}}),
    ]

    assert [reply.status_code for reply in replies] == [202] * 7
    made = await jobs(server)
    assert [[job["id"]] for job in made] == [reply.json()["jobs"] for reply in replies]
    assert all(not job.get("from_fork") for job in made)
    fields = ("dag_name", "binding_id", "event_name", "repository_name", "ref")
    assert [tuple(job.get(field) for field in fields) for job in made] == [
        ("ci", "forge", "push", "gogits/hello-world", "refs/heads/master"),
        ("ci", "forge", "pull_request", "jcitizen/my-repo", "refs/pull/1/head"),
        ("ci", "lab", "push", "mike/diaspora", "refs/heads/master"),
        ("ci", "lab", "merge_request", "gitlabhq/gitlab-test", MERGE_REF),
        ("ci", "signed-lab", "tag_push", "jsmith/example", "refs/tags/v1.0.0"),
        ("repair", "alerts", "firing", None, None),
        ("deploy", "plain", None, "a/b", "refs/heads/x"),
    ]
    assert [job.get("sha", "")[:8] for job in made] == [
        *("4522cbce", "2eba238e", "da156088", "da156088", "82b3d5ae", "", ""),
    ]
    assert made[1]["event_action"] == "synchronized"
    assert [made[at].get("pull_request_number") for at in (0, 1, 3)] == [None, 1, 1]
    assert [made[at]["actor_login"] for at in (0, 2, 3)] == [
        real("gitea/push")["sender"]["login"],
        "jsmith",
        "user1",
    ]
    for job in made:
        assert job["id"] == job_id_of(job["binding_id"], job["delivery_id"])


MERGE_REF = "refs/merge-requests/1/head"


async def test_the_job_has_the_payload_to_the_byte_and_no_credential(
    server: HubHere,
) -> None:
    body = json.dumps(real("gitea/push")).replace('"id": 61', '"id":   61').encode()
    await gitea(server, body, "g-1")
    await gitlab(server, real("gitlab/push"), "l-1")
    await signed_gitlab(server, {"a": 1}, "s-1", server.context.now())
    machine = Machine(http=server.http)

    first, second, third = [await machine.pull() for _ in range(3)]

    assert body.decode() in first.text
    assert first.job["headers"] == {
        "content-type": "application/json",
        "user-agent": first.job["headers"]["user-agent"],
        "x-gitea-delivery": "g-1",
        "x-gitea-event": "push",
        "x-gitea-event-type": "push",
    }
    assert set(second.job["headers"]) == {
        *("content-type", "user-agent", "idempotency-key"),
        *("x-gitlab-event", "x-gitlab-event-uuid"),
    }
    assert set(third.job["headers"]) == {
        *("content-type", "user-agent", "x-gitlab-event"),
        *("webhook-id", "webhook-timestamp"),
    }
    assert webhooks.TOKEN not in first.text + second.text + third.text


@pytest.mark.postgresql_in("host")
async def test_a_repeated_delivery_makes_no_second_job(server: HubHere) -> None:
    pull, merge = real("gitea/push"), real("gitlab/push")
    alert, bare = real("alertmanager/firing"), {"deploy": 1}
    now = server.context.now()
    calls = [
        partial(gitea, server, pull, "g-1"),
        partial(gitlab, server, merge, "l-1"),
        # GitLab before 17.4 names no id.
        partial(gitlab, server, real("gitlab/tag_push")),
        partial(signed_gitlab, server, merge, "s-1", now),
        partial(alertmanager, server, alert),
        partial(plain, server, bare),
    ]
    first = [await call() for call in calls]
    again = [await call() for call in calls]
    # The id is not signed.
    forged = await gitea(server, pull, "g-2", "pull_request")
    unnamed = await gitea(server, pull, "")
    # By an hour, and by more than their window.
    server.time.wall_set_by_s -= 3700
    late = [await calls[at]() for at in (0, 1, 2, 4, 5)]
    others = [
        await gitlab(server, merge, "l-2"),
        await alertmanager(server, {**alert, "groupKey": "another"}),
        await plain(server, {"deploy": 2}),
    ]

    assert [reply.status_code for reply in first] == [202] * 6
    assert [reply.json() for reply in again] == [{"message": "duplicate"}] * 6
    assert (forged.status_code, unnamed.status_code) == (200, 200)
    assert [reply.status_code for reply in late] == [200] * 5
    assert [reply.status_code for reply in others] == [202] * 3
    assert len(await jobs(server)) == 9
    assert len(await deliveries(server)) == 9
    [replayed] = log(server, "webhook_replayed")
    assert (replayed["delivery"], replayed["first"]) == ("g-2", "g-1")
    assert (await counted(server))['{hook="forge",result="duplicate"}'] == 4


async def test_a_body_without_an_id_counts_once_in_its_window(server: HubHere) -> None:
    first = await plain(server, {"deploy": 1})
    server.time.wall_set_by_s += 3590
    inside = await plain(server, {"deploy": 1})
    server.time.wall_set_by_s += 20
    behind = await plain(server, {"deploy": 1})
    again = await plain(server, {"deploy": 1})

    server.time.wall_set_by_s += 30 * 86_400
    ahead = await plain(server, {"deploy": 1})
    server.time.wall_set_by_s -= 30 * 86_400 - 7200
    right = await plain(server, {"deploy": 1})

    replies = first, inside, behind, again, ahead, right
    codes = [reply.status_code for reply in replies]
    assert codes == [202, 200, 202, 200, 202, 202]
    assert len({job["id"] for job in await jobs(server)}) == 4


async def test_strangers_are_refused_alike_and_told_nothing(server: HubHere) -> None:
    body, hex_ = webhooks.body_of(real("gitea/push")), "X-Gitea-Signature"
    good = webhooks.signature(body)
    tries: list[tuple[str, dict[str, Any]]] = [
        ("forge", {}),
        ("forge", {hex_: ""}),
        ("forge", {hex_: "zz" * 32}),
        ("forge", {hex_: good[:-2]}),
        ("forge", {hex_: f"sha256={good}"}),
        ("forge", {hex_: webhooks.signature(body, "wrong")}),
        ("forge", {"X-Hub-Signature-256": f"sha256={good}"}),
        ("lab", {hex_: good}),
        ("lab", {"X-Gitlab-Token": ""}),
        ("lab", {"X-Gitlab-Token": webhooks.TOKEN[:-1]}),
        ("lab", {"X-Gitlab-Token": b"t\xf6ken"}),
        ("alerts", {"authorization": webhooks.TOKEN}),
        ("alerts", {"authorization": f"Basic {webhooks.TOKEN}"}),
        ("alerts", {"authorization": "Bearer x"}),
        ("nobody", {hex_: good}),
        ("for/ge", {hex_: good}),
        ("github", {hex_: good}),
        ("FORGE", {hex_: good}),
    ]
    replies = [
        await post(server, name, body, {"X-Gitea-Delivery": "g-1", **headers})
        for name, headers in tries
    ]

    answers = {(reply.status_code, reply.text) for reply in replies}
    assert answers == {
        (401, '{"message":"the delivery is not one of a hook of this hub"}')
    }
    assert await jobs(server) == await deliveries(server) == []
    # A few at a time.
    [said] = log(server, "webhook_refused")
    assert (said["hook"], said["status"]) == ("forge", 401)
    assert said["reason"] == "the header x-gitea-signature is missing"
    found = await counted(server)
    assert found['{hook="",result="refused"}'] == 4
    assert found['{hook="forge",result="refused"}'] == 7


async def test_an_unknown_name_is_answered_after_the_body_like_a_known_one(
    server: HubHere,
) -> None:
    names = ("forge", "lab", "alerts", "nobody")
    connections = []
    for name in names:
        connection = socket.create_connection(("127.0.0.1", server.port), 60)
        head = f"POST /webhooks/{name} HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n"
        proof = f"X-Gitea-Signature: {'0' * 64}\r\n"
        connection.sendall(f"{head}{proof}\r\n{{".encode())
        connections.append(connection)
    for name in names:
        # An answer to the others would be there before this one.
        assert (await post(server, name, b"{}", {})).status_code == 401
    early = [_arrived(connection) for connection in connections]
    answers = []
    for connection in connections:
        connection.sendall(b"}")
        answer = await to_thread.run_sync(connection.recv, 4096)
        answers.append(answer.split(b"\r\n")[0])
        connection.close()

    assert early == [b""] * 4
    assert answers == [b"HTTP/1.1 401 Unauthorized"] * 4


def _arrived(connection: socket.socket) -> bytes:
    """Return what has arrived by now."""
    connection.setblocking(False)
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return b""
    finally:
        connection.settimeout(60)


async def test_each_of_several_secrets_is_valid(server: HubHere) -> None:
    old = await gitea(server, real("gitea/push"), "g-1", secret=OLD_SECRET)
    wrong = await gitea(server, {"ref": "x"}, "g-2", secret="alert-token")

    assert (old.status_code, wrong.status_code) == (202, 401)


async def test_the_command_of_the_documentation_makes_a_job_each_time(
    tmp_path: Path,
) -> None:
    if not (shutil.which("curl") and shutil.which("openssl")):
        pytest.skip("there is no curl, or no openssl")
    page = (webhooks.ROOT.parents[2] / "docs" / "webhooks.md").read_text()
    blocks = page.partition("## Any other sender")[2].split("```")
    config, script = blocks[1].removeprefix("toml"), blocks[3].removeprefix("sh")
    folder = prepared(tmp_path / "hub")
    (folder / "deploy-secret").write_text(webhooks.PLAIN_SECRET)
    async with hub(folder, more=config) as server:
        shell = ["sh", "-c", script.replace("https://hub.example.org", server.url)]
        how = {"capture_output": True, "check": True, "timeout": 60}
        run = partial(subprocess.run, shell, cwd=folder, **how)
        for _ in range(2):
            done = await to_thread.run_sync(run)
            assert json.loads(done.stdout)["message"] == "queued"
        made = await jobs(server)

    assert [job["repository_name"] for job in made] == ["acme/shop"] * 2


async def test_a_secret_in_the_url_is_not_in_the_log(server: HubHere) -> None:
    # As an owner may set it up by mistake.
    reply = await post(server, f"x/{webhooks.TOKEN}", b"{}", {})

    assert reply.status_code == 401
    [said] = log(server, "webhook_refused")
    assert webhooks.TOKEN not in json.dumps(said)


async def test_a_signed_time_keeps_old_deliveries_out(server: HubHere) -> None:
    push = real("gitlab/push")
    now = server.context.now()
    send = partial(signed_gitlab, server, push)
    old = await send("s-1", now - 400)
    early = await send("s-1", now + 400)
    server.time.wall_set_by_s -= 3600
    before = await send("s-1", now)
    server.time.wall_set_by_s += 3600
    right = await send("s-1", now)
    again = await send("s-1", now + 60)
    moved = await signed_gitlab(server, push, "s-2", now, key=b"another key")

    codes = [reply.status_code for reply in (old, early, before, right, again, moved)]
    assert codes == [401, 401, 401, 202, 200, 401]
    assert "behind the hub's clock" in old.json()["message"]
    assert "ahead of the hub's clock" in before.json()["message"]
    assert len(await jobs(server)) == 1


async def test_code_of_a_fork_runs_only_where_the_owner_wants_it(
    tmp_path: Path,
) -> None:
    with_forks = FORGE.replace('"forge"', '"forks"').replace(
        '"forge-secret", "forge-secret-before"', '"plain-secret"'
    )
    with_forks += 'forks = "run"\n'
    folder = prepared(tmp_path / "hub")
    async with hub(folder, more=FORGE + LAB + with_forks) as server:
        pull, merge = real("gitea/pull_request"), real("gitlab/merge_request")
        fork = same(pull, repo_id=1)
        unclear = same(pull)
        for end in ("head", "base"):
            del unclear["pull_request"][end]["repo_id"]
        comment = {**fork, "action": "created", "is_pull": True}
        merge["object_attributes"]["source_project_id"] = 99
        # Whoever may read a repository of Gitea can push this one to it (refs/for/...).
        agit = same(pull, repo_id=pull["pull_request"]["base"]["repo_id"])
        agit["pull_request"]["head"].update(label="", ref="refs/pull/2/head")
        never = [
            await gitea(server, fork, "g-1", "pull_request"),
            await gitea(server, agit, "g-4", "pull_request"),
            await gitea(server, unclear, "g-2", "pull_request"),
            await gitea(server, comment, "g-3", "issue_comment"),
            await gitlab(server, merge, "l-1"),
        ]
        run = await gitea(
            *(server, fork, "g-1", "pull_request"),
            name="forks",
            secret=webhooks.PLAIN_SECRET,
        )
        made = await jobs(server)

    assert {reply.status_code for reply in never} == {202}
    reasons = {reply.json()["reason"] for reply in never}
    assert reasons == {"its code comes from a fork (forks)"}
    assert run.json()["message"] == "queued"
    [job] = made
    assert job["from_fork"] is True


async def test_what_a_hook_does_not_want_is_stored_as_ignored(tmp_path: Path) -> None:
    picky = """events = ["push", "pull_*"]
repositories = ["gogits/*", "jcitizen/my-repo"]
refs = ["master"]
"""
    folder = prepared(tmp_path / "hub")
    async with hub(folder, more=FORGE + picky + LAB) as server:
        push, pull = real("gitea/push"), real("gitea/pull_request")
        lab, merge = real("gitlab/push"), real("gitlab/merge_request")
        attributes = {**merge["object_attributes"], "action": "update"}
        replies = [
            await gitea(server, push, "g-1"),
            await gitea(server, {**push, "ref": "refs/heads/x"}, "g-2"),
            await gitea(server, {**pull, "action": "closed"}, "g-3", "pull_request"),
            await gitea(server, {"action": "opened"}, "g-4", "issues"),
            await gitea(server, {**push, "repository": {}}, "g-5"),
            await gitlab(server, {**lab, "after": ZEROS, "checkout_sha": None}, "l-1"),
            await gitlab(server, {**merge, "object_attributes": attributes}, "l-2"),
            await gitlab(
                server,
                {**merge, "object_attributes": {**attributes, "oldrev": "1" * 40}},
                "l-3",
            ),
        ]
        stored = await deliveries(server)

    assert [reply.json()["reason"] for reply in replies] == [
        "workflow ci",
        "the ref refs/heads/x isn't one of master",
        "the action closed brings no new commit (actions)",
        "the event issues isn't one of push, pull_*",
        "the repository (none) isn't one of gogits/*, jcitizen/my-repo",
        "its ref was removed, so there is no commit",
        "the action update brings no new commit (actions)",
        "workflow ci",
    ]
    assert [each["state"] for each in stored] == [
        *("queued", *["ignored"] * 6, "queued"),
    ]


@pytest.mark.postgresql_in("host")
@pytest.mark.parametrize("forge", ["gitea", "gitlab"])
async def test_a_newer_commit_supersedes_the_older_jobs_of_its_pull_request(
    server: HubHere, forge: str
) -> None:
    async def deliver(number: int, sha: str, minute: int) -> httpx.Response:
        if forge == "gitea":
            pull = real("gitea/pull_request")
            pull["pull_request"]["head"]["sha"] = sha
            pull["pull_request"]["updated_at"] = f"2026-05-05T10:{minute:02}:00Z"
            return await gitea(server, pull, f"g-{number}", "pull_request")
        merge = real("gitlab/merge_request")
        merge["object_attributes"]["last_commit"]["id"] = sha
        merge["object_attributes"]["updated_at"] = f"2026-05-05 10:{minute:02}:00 UTC"
        return await gitlab(server, merge, f"l-{number}")

    await deliver(1, "a" * 40, 1)
    await deliver(2, "c" * 40, 3)
    # It comes late.
    await deliver(3, "b" * 40, 2)

    states = {job["sha"][0]: job["state"] for job in await jobs(server)}
    assert states == {"a": "superseded", "c": "queued", "b": "queued"}


async def test_a_delivery_that_can_not_be_stored_is_no_success(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "hub")
    async with hub(folder, more="[queue]\nmost = 1\n" + CONFIG) as server:
        await server.submit({"id": "first", "dag_name": "ci"})
        full = await gitea(server, real("gitea/push"), "g-1")
        nothing = await deliveries(server)
        await (await Machine(http=server.http).pull()).finish()
        room = await gitea(server, real("gitea/push"), "g-1")
        file = server.folder / "hub.db"
        file.rename(file.with_name("aside.db"))
        gone = await gitlab(server, real("gitlab/push"), "l-1")
        file.with_name("aside.db").rename(file)

    assert (full.status_code, full.headers["retry-after"]) == (503, "10")
    assert nothing == []
    assert (room.status_code, gone.status_code) == (202, 503)


async def test_a_body_that_is_no_json_or_too_large_is_refused(server: HubHere) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    replies = [
        await gitea(server, b"{", "g-1"),
        await gitea(server, b'{"a": NaN}', "g-2"),
        await gitea(server, b"\xff", "g-3"),
        await gitea(server, b"[" * 100_000, "g-4"),
        await post(server, "forge", b"payload=%7B%7D", form),
        await post(server, "nobody", b"payload=%7B%7D", form),
        await gitea(server, b"1" * (25 * 1024 * 1024 + 1), "g-5"),
    ]
    large = await gitea(server, {"text": "x" * 1024 * 1024}, "g-6")

    codes = [reply.status_code for reply in replies]
    assert codes == [400, 400, 400, 400, 415, 415, 413]
    assert large.status_code == 202
    assert len(await deliveries(server)) == 1


async def test_hostile_payloads_make_no_error(server: HubHere) -> None:
    odd: list[Any] = [
        None,
        [],
        "text",
        7,
        {"repository": {"full_name": "\ud83d \x00" + "n" * 5000}, "ref": ["x"]},
        {"pull_request": {"number": 10**400, "head": {"sha": 5}}, "sender": None},
        {"pull_request": {"number": -1, "head": {"repo_id": {}}}, "ref": "\n"},
        {"object_kind": "merge_request", "object_attributes": [{"iid": True}]},
        {"alerts": [[{"fingerprint": 1}]] * 1000, "groupKey": {"a": 1}, "status": []},
    ]
    ids = ["g", "x" * 5000, "a b", "{id}/../*"]
    replies = [
        *[await gitea(server, each, f"g-{at}") for at, each in enumerate(odd)],
        *[
            await gitea(server, each, f"p-{at}", "pull_request")
            for at, each in enumerate(odd)
        ],
        *[await gitlab(server, each, f"l-{at}") for at, each in enumerate(odd)],
        *[await alertmanager(server, each) for each in odd],
        *[await gitlab(server, {"n": at}, each) for at, each in enumerate(ids)],
    ]

    assert {reply.status_code for reply in replies} <= {200, 202}
    machine = Machine(http=server.http)
    while (reply := await machine.ask()).status_code == 200:
        check("dispatch-job", reply.json())


@pytest.mark.postgresql_in("host")
async def test_a_repeat_after_the_retention_makes_no_second_job(
    server: HubHere,
) -> None:
    await gitea(server, real("gitea/push"), "g-1")
    await (await Machine(http=server.http).pull()).finish()
    await server.http.post("/api/v1/prune", json={"days": 0})
    left = await jobs(server)
    again = await gitea(server, real("gitea/push"), "g-1")
    replay = await gitea(server, real("gitea/push"), "g-2")

    assert left == await jobs(server) == []
    assert (again.status_code, replay.status_code) == (200, 200)


async def test_a_delivery_that_comes_again_after_a_restore_is_the_same_job(
    tmp_path: Path,
) -> None:
    backup = str(tmp_path / "night")
    more = f"{CONFIG}window_s = 259200\n"
    async with hub(prepared(tmp_path / "hub"), more=more) as server:
        config = str(server.folder / FILE)
        said = await command("hub", "backup", backup, "--config", config)
        assert said.returncode == 0, said.stderr
        first = [
            await gitea(server, real("gitea/push"), "g-1"),
            await plain(server, {"deploy": 1}),
        ]
        await server.stop()
        server.folder = tmp_path / "new"
        said = await command("hub", "init", str(server.folder))
        assert said.returncode == 0, said.stderr
        prepared(server.folder)
        server.configure()
        config = str(server.folder / FILE)
        said = await command("hub", "restore", backup, "--config", config)
        assert said.returncode == 0, said.stderr
        await server.start()
        again = [
            await gitea(server, real("gitea/push"), "g-1"),
            await plain(server, {"deploy": 1}),
        ]
        held = await Machine(http=server.http).ask()

    assert [reply.json()["jobs"] for reply in again] == [
        reply.json()["jobs"] for reply in first
    ]
    # The owner has to look first.
    assert held.status_code == 204


async def test_a_redelivery_of_the_owner_runs_it_again(server: HubHere) -> None:
    first = await gitea(server, real("gitea/push"), "g-1")
    reply = await server.http.post("/api/v1/deliveries/g-1/redeliver")

    assert reply.status_code == 201
    assert [reply.json()["id"]] != first.json()["jobs"]


async def test_the_owner_sees_hooks_and_tries_a_payload(server: HubHere) -> None:
    await gitea(server, real("gitea/push"), "g-1")
    await gitea(server, {"action": "closed"}, "g-2", "pull_request")
    await gitlab(server, real("gitlab/push"), "l-1")
    config = ("--config", str(server.folder / FILE))
    said = await command("hub", "webhooks", *config)
    as_json = json.loads((await command("hub", "webhooks", "--json", *config)).stdout)
    push = str(webhooks.ROOT / "gitea" / "push.json")
    trial = ("hub", "webhook", "test", *config)
    header = ("--header", "X-Gitea-Event:push", "--header", "X-Gitea-Delivery: d")
    tried = await command(*trial, "--json", *header, "forge", push)
    words = await command(*trial, *header, "forge", push)
    none = await command(*trial, "forgery", push)
    nobody = await server.http.get("/api/v1/webhooks", headers={"authorization": ""})
    got = await server.http.get("/webhooks/forge")

    for each in as_json:
        check("hub-webhook", each)
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["HOOK", "URL", "SENDER", "WORKFLOW", "LAST", "RESULT"]
    assert len(lines) == 6
    assert f"{server.url}/webhooks/forge" in lines[1]
    assert "ignored: the action closed" in lines[1]
    assert as_json[1]["job_ids"][0] in lines[2]
    assert json.loads(tried.stdout)["job"]["id"] == job_id_of("forge", "d")
    assert "gogits/hello-world" in words.stdout
    assert none.returncode == 64
    assert "it has: forge, lab, signed-lab, alerts, plain" in none.stderr
    assert (nobody.status_code, got.status_code) == (401, 405)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("lab-key", None, "webhooks[2].secret_files[0]: must name a readable file"),
        (
            "lab-key",
            "",
            "webhooks[2].secret_files[0]: must name a file that isn't empty",
        ),
        ("lab-key", "whsec_?", "must name a file with whsec_ and a key in Base64"),
        ("lab-key", "whsec_", "must name a file with whsec_ and a key"),
        (
            "plain-secret",
            OLD_SECRET,
            "webhooks[4].secret_files: must name secrets of its own: 'forge' has the same",
        ),
    ],
)
def test_a_secret_that_can_not_be_used_stops_the_start(
    tmp_path: Path, migrated_file: Path, name: str, content: str | None, expected: str
) -> None:
    folder = prepared(tmp_path)
    shutil.copy(migrated_file, folder / "hub.db")
    (folder / FILE).write_text(CONFIG)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    context = Context.at(load(folder / FILE), database)
    database.close()

    with pytest.raises(ConfigError) as caught:
        Webhooks.of(context, Submissions(context))

    [line] = str(caught.value).splitlines()
    assert expected in line
    assert not content or content not in line.replace("whsec_ and", "")


def test_no_hook_has_the_secret_of_github_s(
    tmp_path: Path, migrated_file: Path
) -> None:
    # Gitea even signs in GitHub's own header.
    github = """
[github]
token_file = "plain-secret"
webhook_secret_files = ["forge-secret"]
"""
    folder = prepared(tmp_path)
    shutil.copy(migrated_file, folder / "hub.db")
    (folder / FILE).write_text(FORGE + github)
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    context = Context.at(load(folder / FILE), database)
    database.close()

    with pytest.raises(ConfigError) as caught:
        Webhooks.of(context, Submissions(context))

    [line] = str(caught.value).splitlines()
    assert "webhooks[0].secret_files: must name secrets of its own: 'github'" in line


@pytest.mark.postgresql_in("host")
def test_of_many_that_come_at_once_one_makes_the_job(
    tmp_path: Path, database: Database
) -> None:
    file = prepared(tmp_path / "hub") / FILE
    file.write_text(CONFIG)
    context = Context.at(load(file), database)
    inbox = WebhookInbox(context, Submissions(context))
    for number, webhook in enumerate(context.settings.webhooks):
        payload: Any = {"number": number, "status": "firing"}
        headers = [{"x-gitea-delivery": f"d-{at}"} for at in (1, 1, 2, 2, 3, 3)]
        calls = [
            partial(
                inbox.take,
                Arrival(
                    webhook=webhook,
                    event=read_event(webhook.form, each, payload),
                    payload=json.dumps(payload),
                    headers="{}",
                    payload_hash=f"hash {number}",
                ),
            )
            for each in headers
        ]

        taken = at_once(calls)

        assert sorted(each.is_duplicate for each in taken) == [False, *[True] * 5]
    assert len(JobReader(database).list(Filter(limit=100))) == 5
