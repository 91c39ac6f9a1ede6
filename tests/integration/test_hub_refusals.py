"""The hub says whom it has refused, and nobody can fill its log with that."""

import json
import re
from pathlib import Path
from typing import Any

from support.clock import advance
from support.github_events import SECRET
from support.github_hub import CONFIG, prepared, send
from support.hub import Hub, hub


def lines(server: Hub, event: str) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in server.log_file.read_text().splitlines()]
    return [each for each in read if each["event"] == event]


async def test_refused_webhooks_are_logged_a_few_at_a_time(tmp_path: Path) -> None:
    async with hub(prepared(tmp_path / "hub"), more=CONFIG) as server:
        for number in range(20):
            reply = await send(server, "push", {}, f"d-{number}", secret="wrong")
            assert reply.status_code == 401
        await advance(11)
        await send(server, "push", {}, "last", secret="wrong")
        said = lines(server, "webhook_refused")

    assert [each["delivery"] for each in said] == ["d-0", "last"]
    assert said[0]["status"] == 401
    assert said[0]["address"] == "127.0.0.1"
    assert "doesn't fit" in said[0]["reason"]
    assert said[1]["left_out"] == 19


async def test_refused_logins_and_tokens_are_logged_without_the_token(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub") as server:
        bad = {"authorization": "Bearer not-the-token"}
        for _ in range(3):
            await server.http.get("/api/v1/jobs", headers=bad)
        await advance(11)
        submitter = {"name": "ci bot", "scopes": ["submit"]}
        made = await server.http.post("/api/v1/tokens", json=submitter)
        weak = {"authorization": f"Bearer {made.json()['token']}"}
        await server.http.get("/api/v1/jobs", headers=weak)
        said = lines(server, "token_refused")
        text = server.log_file.read_text()

    assert [each["path"] for each in said] == ["/api/v1/jobs"] * 2
    assert [each["status"] for each in said] == [401, 403]
    assert [each["address"] for each in said] == ["127.0.0.1"] * 2
    assert [each.get("by") for each in said] == [None, "ci bot"]
    assert "not-the-token" not in text
    assert made.json()["token"] not in text


async def test_a_login_that_fails_is_logged_with_status_and_address(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub") as server:
        form = await server.http.get("/login", headers={"authorization": ""})
        [*_, value] = re.findall(r'name="form_token" value="([^"]+)"', form.text)
        given = {"form_token": value, "token": "not-the-token"}
        await server.http.post("/login", data=given)
        [said] = lines(server, "login_refused")

    assert (said["status"], said["address"]) == (401, "127.0.0.1")
    assert "not-the-token" not in json.dumps(said)


async def test_the_audit_line_has_name_status_and_address(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as server:
        body = {"name": "alice's secret token", "scopes": ["admin"]}
        made = (await server.http.post("/api/v1/tokens", json=body)).json()
        alice = {"authorization": f"Bearer {made['token']}"}
        for path in ("/api/v1/tokens/nobody/revoke", "/api/v1/dispatch/resume"):
            await server.http.post(path, headers=alice)
        cancel = {"command": "cancel", "dag_run_id": "none"}
        await server.http.post("/api/v1/jobs", json=cancel, headers=alice)
        said = lines(server, "owner_call")[1:]
        text = server.log_file.read_text()

    assert [(each["by"], each["path"], each["status"]) for each in said] == [
        (body["name"], "/api/v1/tokens/nobody/revoke", 404),
        (body["name"], "/api/v1/dispatch/resume", 200),
        (body["name"], "/api/v1/jobs", 201),
    ]
    assert {each["address"] for each in said} == {"127.0.0.1"}
    assert made["token"] not in text


async def test_a_webhook_secret_with_a_byte_order_mark_counts(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "hub")
    (folder / "webhook-secret").write_bytes(b"\xef\xbb\xbf" + SECRET.encode())
    async with hub(folder, more=CONFIG) as server:
        reply = await send(server, "ping", {"zen": "x"}, "d")

    assert reply.status_code == 202
