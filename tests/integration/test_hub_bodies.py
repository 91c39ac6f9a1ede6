"""No stranger's body costs the hub more than reading 64 KiB, and no machine is refused for a long text."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import SECRET
from support.github_events import SECRET as WEBHOOK_SECRET
from support.github_events import signature
from support.github_hub import CONFIG, prepared
from support.hub import Hub, hub
from support.machine import JOBS, PATH, Machine, refuses, row
from support.raw_calls import connection, head, status_of

MIB = 1024 * 1024
ACTIVATE = "/api/v1/licenses/activate"
STRANGER = {"license_id": "x", "server_id": "x"}
BEGINNING = {"license_id": "lic-test", "server_id": "m1"}
MARK = {"path": "a", "start_line": 1, "level": "notice", "message": "m"}


def text(fields: dict[str, Any], name: str, value: str) -> bytes:
    """Return a JSON object with one more member, whose value is a JSON text."""
    return f'{json.dumps(fields)[:-1]}, "{name}": {value}}}'.encode()


def many(item: str, count: int) -> str:
    return f"[{','.join([item] * count)}]"


WORST = {
    "finish-255k": (
        f"{PATH}/x/finish",
        text(
            {**STRANGER, "secret": "x", "result_status": "succeeded"},
            "result_annotations",
            many("{}", 85_000),
        ),
        401,
    ),
    "pull-workflows-20k": (
        f"{PATH}/pull",
        text({**STRANGER, "heartbeat_secret": "x"}, "workflows", many("1", 10_000)),
        401,
    ),
    "pull-workflows-2m": (
        f"{PATH}/pull",
        text({**STRANGER, "heartbeat_secret": "x"}, "workflows", many("1", MIB)),
        413,
    ),
    "pull-unknown-8m": (
        f"{PATH}/pull",
        text({**STRANGER, "heartbeat_secret": "x"}, "x", many("[]", 3 * MIB)),
        413,
    ),
    "heartbeat-progress-1m": (
        f"{PATH}/x/heartbeat",
        text({**STRANGER, "secret": "x", "phase": "running"}, "x", many("{}", MIB)),
        413,
    ),
    "activate-1m": (
        ACTIVATE,
        text({"server_id": "x", "key": "x"}, "x", many("[]", MIB)),
        413,
    ),
    "submit-1m": (JOBS, text({"dag_name": "ci"}, "x", many("[]", MIB)), 401),
}


@pytest.mark.parametrize("name", WORST)
async def test_the_worst_bodies_of_strangers_are_refused_by_their_beginning(
    server: Hub, name: str
) -> None:
    path, body, status = WORST[name]

    async with connection(server) as stream:
        await stream.send(head(path, f"Content-Length: {len(body)}"))
        await stream.send(body[: 70 * 1024])
        # The rest is never sent, and nobody waits for it.
        assert await status_of(stream) == status


@pytest.mark.parametrize("call", [f"{PATH}/pull", f"{PATH}/x/finish", ACTIVATE])
async def test_a_stranger_s_body_has_few_members(server: Hub, call: str) -> None:
    body = b"{" + b",".join([b'"":1'] * 13_000) + b"}"

    message = refuses(await server.http.post(call, content=body), 400)

    assert message == "$ must have at most 100 members"


async def test_credentials_may_be_anywhere_in_a_body_of_few_members(
    server: Hub, machine: Machine
) -> None:
    claim = {"claim_token": "x", "result_status": "failed", "result_output": "o" * 9000}
    names = {f"x{number}": 1 for number in range(93)}
    known = {**BEGINNING, "secret": machine.secret}

    for fields in ({**names, **claim, **known}, {**known, **claim, **names, "y": 1}):
        reply = await server.http.post(f"{PATH}/x/finish", json=fields)
        refuses(reply, 404)


async def test_a_body_that_says_that_it_is_too_large_is_not_read_at_all(
    server: Hub,
) -> None:
    for call in ("pull", "x/accept", "x/token", "x/finish"):
        async with connection(server) as stream:
            await stream.send(head(f"{PATH}/{call}", f"Content-Length: {41 * MIB}"))
            status = await status_of(stream)
            # A hub without an App has no call for tokens.
            assert status == (404 if call == "x/token" else 413)


async def test_a_body_without_a_length_is_refused_once_it_is_too_large(
    server: Hub,
) -> None:
    async with connection(server) as stream:
        await stream.send(head(f"{PATH}/pull", "Transfer-Encoding: chunked"))
        await stream.send(b"10001\r\n" + b" " * 0x10001 + b"\r\n")
        assert await status_of(stream) == 413

    async with connection(server) as stream:
        await stream.send(head(f"{PATH}/x/finish", "Transfer-Encoding: chunked"))
        body = text({**STRANGER, "secret": "x"}, "x", " " * 0x10000)[:0x10001]
        await stream.send(b"10001\r\n" + body + b"\r\n")
        assert await status_of(stream) == 401


async def test_a_long_body_has_to_begin_with_credentials(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    claim = {"claim_token": held.token, "result_status": "failed"}
    padding = {"x": "x" * 70_000}
    known = {**BEGINNING, "secret": machine.secret}
    half = {**BEGINNING, "secret": "\ud83d"}

    async def finish(fields: dict[str, Any]) -> httpx.Response:
        return await server.http.post(f"{PATH}/j/finish", content=json.dumps(fields))

    assert "begin with" in refuses(await finish({**claim, **padding, **known}), 413)
    assert "begin with" in refuses(await finish({**half, **padding, **claim}), 413)
    wrong = {**known, "secret": "wrong"}
    refuses(await finish({**wrong, **padding, **claim}), 401)
    # Of equal names the last one counts.
    reply = await server.http.post(
        f"{PATH}/j/finish",
        content=f'{json.dumps({**known, **padding, **claim})[:-1]}, "secret": "wrong"}}',
    )
    refuses(reply, 401)
    assert (await row(server, "j"))["state"] == "claimed"
    assert (await finish({**known, **padding, **claim})).status_code == 204


async def test_texts_of_any_length_are_cut_and_never_refused(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    known = {**BEGINNING, "secret": machine.secret, "claim_token": held.token}

    async def call(name: str, **fields: Any) -> httpx.Response:
        body = json.dumps({**known, **fields})
        return await server.http.post(f"{PATH}/j/{name}", content=body)

    assert (await held.accept()).status_code == 204
    for reason in ("r" * 15_000_000, "\u202e" * 50_000, "\U0001f600" * 10_000):
        reply = await call("heartbeat", phase="needs_attention", reason=reason)
        assert reply.status_code == 200
        shown = (await row(server, "j"))["reason"]
        assert len(shown) == 4000
        assert shown.strip("…") == reason[:3999]
        assert shown.endswith("…")
    progress = {"completed": 10**4000, "in_progress": 1, "total": 2, "x": "x" * 9000}
    assert (
        await call("heartbeat", phase="running", progress=progress)
    ).status_code == 200
    assert (await row(server, "j"))["progress"] == {
        "completed": 2**53 - 1,
        "in_progress": 1,
        "total": 2,
    }
    reply = await call(
        "finish",
        result_status="failed",
        result_summary="\u202e" * 3_000_000,
        result_cause="c" * 15_000_000,
        result_output="o" * 3_000_000,
        result_annotations=[{**MARK, "message": "m" * 5000}],
    )
    assert reply.status_code == 204

    found = await row(server, "j")
    lengths = {
        name: len(found[f"result_{name}"]) for name in ("summary", "cause", "output")
    }
    assert lengths == {"summary": 4000, "cause": 200, "output": 20_000}
    assert found["result_summary"] == "\u202e" * 3999 + "…"
    assert len(found["result_annotations"][0]["message"]) == 4000
    listed = await server.http.get(f"{JOBS}?limit=1")
    assert len(listed.content) < 40_000


LONG_TEXTS: dict[str, dict[str, Any]] = {
    "messages": {"result_annotations": [{**MARK, "message": "m" * 100_000}] * 60},
    "messages of too many": {
        "result_annotations": [{**MARK, "message": "m" * 5000}] * 1000
    },
    "escaped messages": {
        "result_annotations": [{**MARK, "message": "\U0001f600" * 4000}] * 200
    },
    "outputs": {"result_outputs": {f"o{n}": "v" * 100_000 for n in range(60)}},
    "an output that is stored": {
        "result_outputs": {"a": "\x01" * 60_000, "b": "v" * 6_000_000}
    },
}


@pytest.mark.parametrize("name", LONG_TEXTS)
async def test_many_long_texts_are_cut_and_never_refused(
    server: Hub, machine: Machine, name: str
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    fields = LONG_TEXTS[name]

    body = {
        **BEGINNING,
        "secret": machine.secret,
        "claim_token": held.token,
        **fields,
        "result_status": "failed",
        "result_summary": "s" * 4000,
    }
    reply = await server.http.post(f"{PATH}/j/finish", content=json.dumps(body))

    assert reply.status_code == 204
    found = await row(server, "j")
    assert found["result_summary"] == "s" * 4000
    marks = fields.get("result_annotations", [])
    kept = found.get("result_annotations") or []
    assert [len(mark["message"]) for mark in kept] == [4000] * min(len(marks), 200)
    first = fields.get("result_outputs", {}).get("a")
    assert first is None or found["result_outputs"] == {"a": first}


async def test_half_of_a_surrogate_pair_is_replaced_and_never_refused(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    known = {**BEGINNING, "secret": machine.secret, "claim_token": held.token}
    half = {"path": "p\ud83d", "title": "t\udc4d", "message": "m\ud83d"}

    async def call(name: str, **fields: Any) -> int:
        body = json.dumps({**known, **fields})
        reply = await server.http.post(f"{PATH}/j/{name}", content=body)
        return reply.status_code

    assert await call("release", reason="later \ud83d") == 204
    held = await machine.pull()
    known["claim_token"] = held.token
    assert (await held.accept()).status_code == 204
    assert await call("heartbeat", phase="running", reason="why \ud83d") == 200
    assert (await row(server, "j"))["reason"] == "why \ufffd"
    status = await call(
        "finish",
        result_status="failed",
        result_summary="s \ud83d",
        result_cause="\udc4d",
        result_output="\ud83d\udc4d \udc4d",
        result_step_summary="\ud83d",
        result_outputs={"o\ud83d": "\udc4d"},
        result_annotations=[{**MARK, **half, "raw_details": {"x": "\ud83d"}}],
    )

    assert status == 204
    found = await row(server, "j")
    names = ("summary", "cause", "output", "step_summary", "outputs")
    assert [found[f"result_{name}"] for name in names] == [
        "s \ufffd",
        "\ufffd",
        "\U0001f44d \ufffd",
        "\ufffd",
        {"o\ufffd": "\ufffd"},
    ]
    [marked] = found["result_annotations"]
    assert (marked["path"], marked["title"], marked["message"]) == (
        "p\ufffd",
        "t\ufffd",
        "m\ufffd",
    )


async def test_what_is_too_many_is_left_out_before_it_is_checked(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()

    reply = await machine.call(
        "finish",
        "j",
        claim_token=held.token,
        result_status="succeeded",
        result_annotations=[*([MARK] * 200), *([{}] * 85_000)],
        result_outputs={**{f"o{n}": "v" for n in range(100)}, "late": 7},
    )

    assert reply.status_code == 204
    found = await row(server, "j")
    assert len(found["result_annotations"]) == 200
    assert len(found["result_outputs"]) == 100


async def test_nothing_of_a_webhook_is_read_that_bears_no_signature(
    tmp_path: Path,
) -> None:
    event = "X-GitHub-Event: push", "X-GitHub-Delivery: d", f"Content-Length: {MIB}"
    kind = "Content-Type: application/json"
    body = b"{}" + b" " * 30
    async with hub(prepared(tmp_path / "hub"), more=CONFIG) as server:
        for more in ((), ("X-Hub-Signature-256: sha256=0",)):
            async with connection(server) as stream:
                await stream.send(head("/webhooks/github", kind, *event, *more))
                assert await status_of(stream) == 401
        signed = signature(body, WEBHOOK_SECRET)
        for length, status in ((len(body), 202), (26 * MIB, 413)):
            about = (*event[:2], f"Content-Length: {length}")
            async with connection(server) as stream:
                sent = f"X-Hub-Signature-256: {signed}"
                await stream.send(head("/webhooks/github", kind, *about, sent))
                await stream.send(body)
                assert await status_of(stream) == status


@pytest.mark.parametrize(
    ("target", "status", "first"),
    [
        ("http://hub.example/healthz", 200, b""),
        ("HTTPS://hub.example:8484/healthz?x=1", 200, b""),
        ("http://other@hub.example", 303, b"/login?next=%2F"),
        (
            "http://hub.example/jobs/j%2F1?a=b",
            303,
            b"/login?next=%2Fjobs%2Fj%252F1%3Fa%3Db",
        ),
        (f"http://hub.example{PATH}/pull", 405, b""),
        ("http://", 404, b""),
        ("ftp://hub.example/healthz", 404, b""),
    ],
)
async def test_a_target_in_absolute_form_means_the_same(
    tmp_path: Path, target: str, status: int, first: bytes
) -> None:
    """RFC 9112, 3.2.2: a server has to take it, and go by its host."""
    async with hub(tmp_path / "hub") as here, connection(here) as stream:
        await stream.send(head(target, method="GET"))
        answer = await stream.receive()

    assert int(answer.split()[1]) == status
    assert first in answer


async def test_a_machine_behind_a_proxy_that_sends_absolute_targets_gets_its_jobs(
    tmp_path: Path,
) -> None:
    body = json.dumps({**BEGINNING, "heartbeat_secret": SECRET}).encode()
    async with hub(tmp_path / "hub") as here, connection(here) as stream:
        await here.submit({"id": "j", "dag_name": "it"})
        asked = f"Content-Length: {len(body)}"
        await stream.send(head(f"http://hub{PATH}/pull", asked) + body)
        answer = await stream.receive()

    assert int(answer.split()[1]) == 200
    assert b"dispatch-contract: 1" in answer.lower()
