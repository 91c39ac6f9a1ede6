"""The whole way with a GitHub that nobody here wrote: emulate sends signed webhooks and keeps checks, Prism judges.

Between the hub and emulate stands Prism, with GitHub's own OpenAPI, and before it something that only notes what
Prism says of each request.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from attrs import define, field

from support.checks import ChecksHub, checks_hub
from support.github import (
    APP_ID,
    INSTALLATION,
    PERSON_TOKEN,
    REPOSITORY,
    app_key,
    emulate,
    prism,
    request_violations,
)
from support.github_hub import RULES, jobs
from support.hub import HubHere
from support.servers import asgi_server
from support.torture import lasting_port
from support.until import until

SECRET = "s3cret"
TRIAGE = """
[[github.rules]]
name = "triage"
workflow = "triage"
repositories = ["octo/*"]
command = "triage"
on = "issue"
"""

pytestmark = pytest.mark.host


@define
class Noting:
    """Passes requests on, and notes what is wrong with them."""

    upstream: str
    key: str
    url: str = ""
    seen: list[str] = field(factory=list)
    violations: list[Any] = field(factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["raw_path"].decode()
        query = scope["query_string"].decode()
        skipped = {b"host", b"content-length", b"accept-encoding"}
        headers = [each for each in scope["headers"] if each[0] not in skipped]
        async with httpx.AsyncClient(timeout=30) as http:
            reply = await http.request(
                scope["method"],
                f"{self.upstream}{path}" + (f"?{query}" if query else ""),
                content=body,
                headers=headers,
            )
        self.seen.append(f"{scope['method']} {path}")
        self.violations += request_violations(reply.headers)
        start = {"type": "http.response.start", "status": reply.status_code}
        kind = [(b"content-type", b"application/json")]
        await send({**start, "headers": kind})
        await send({"type": "http.response.body", "body": reply.content})


@define
class Emulated:
    """A hub, and the repository at emulate as its owner has it."""

    hub: ChecksHub[HubHere]
    noting: Noting
    owner: httpx.AsyncClient

    async def pull_request(self) -> str:
        """Open a pull request, and return its commit."""
        main = (await self.owner.get("/branches/main")).json()["commit"]["sha"]
        branch = {"ref": "refs/heads/topic", "sha": main}
        await self.owner.post("/git/refs", json=branch)
        file = {"message": "Say hello", "content": "aGVsbG8=", "branch": "topic"}
        made = await self.owner.put("/contents/hello.txt", json=file)
        opened = {"title": "Hello", "head": "topic", "base": "main"}
        reply = await self.owner.post("/pulls", json=opened)
        assert reply.status_code == 201, reply.text
        sha: str = made.json()["commit"]["sha"]
        return sha

    async def checks(self, sha: str) -> dict[str, Any]:
        reply = await self.owner.get(f"/commits/{sha}/check-runs")
        return {each["name"]: each for each in reply.json()["check_runs"]}

    async def until_jobs(self, count: int) -> list[dict[str, Any]]:
        async def sent() -> list[dict[str, Any]]:
            found = await jobs(self.hub.server)
            return found if len(found) >= count else []

        return await until(sent)


@asynccontextmanager
async def emulated(folder: Path) -> AsyncIterator[Emulated]:
    key, port = app_key(), lasting_port()
    webhook_url = f"http://127.0.0.1:{port}/webhooks/github"
    with (
        emulate(folder, key, webhook_url=webhook_url, webhook_secret=SECRET) as there,
        prism(folder, "api.github.com", upstream=there) as judge,
    ):
        noting = Noting(judge, key)
        async with asgi_server(noting) as noting_port:
            noting.url = f"http://127.0.0.1:{noting_port}"
            rules = RULES.replace("Codertocat/*", "octo/*") + TRIAGE
            async with checks_hub(folder, noting, rules, port=port) as hub:
                now = int(time.time())
                claims = {"iss": str(APP_ID), "iat": now - 60, "exp": now + 500}
                proof = jwt.encode(claims, key, algorithm="RS256")
                mint = f"{there}/app/installations/{INSTALLATION}/access_tokens"
                async with httpx.AsyncClient(timeout=30) as http:
                    by_app = {"Authorization": f"Bearer {proof}"}
                    token = (await http.post(mint, headers=by_app)).json()["token"]
                async with httpx.AsyncClient(
                    base_url=f"{there}/repos/{REPOSITORY}",
                    headers={"Authorization": f"Bearer {token}"},
                ) as owner:
                    yield Emulated(hub, noting, owner)


@pytest.mark.timeout(180)
async def test_a_pull_request_at_emulate_gets_its_checks(tmp_path: Path) -> None:
    async with emulated(tmp_path) as here:
        sha = await here.pull_request()
        tests, lint = await here.until_jobs(2)
        assert (tests["sha"], lint["sha"]) == (sha, sha)
        await here.hub.paid()
        queued = await here.checks(sha)
        assert {each["status"] for each in queued.values()} == {"queued"}

        held = await here.hub.pull()
        await held.accept()
        await here.hub.paid()
        assert (await here.checks(sha))["tests"]["status"] == "in_progress"
        await held.finish("failed", "Two tests are red.")
        await (await here.hub.pull()).finish("succeeded")
        await here.hub.paid()

        found = await here.checks(sha)
        assert {name: each["conclusion"] for name, each in found.items()} == {
            "tests": "failure",
            "lint": "success",
        }
        assert found["tests"]["external_id"] == tests["id"]
        assert "Two tests are red." in found["tests"]["output"]["summary"]
        assert here.noting.violations == []
        assert (
            sum("POST" in each and "check-runs" in each for each in here.noting.seen)
            == 2
        )


@pytest.mark.timeout(180)
async def test_a_command_at_emulate_is_asked_about_and_run(tmp_path: Path) -> None:
    async with emulated(tmp_path) as here:
        await here.owner.post("/issues", json={"title": "Look at this"})

        # emulate doesn't say which comments stand under pull requests.
        comment = {"body": "Please:\n\n/run triage"}
        by_app = await here.owner.post("/issues/1/comments", json=comment)
        person = {"Authorization": f"Bearer {PERSON_TOKEN}"}
        by_person = await here.owner.post(
            "/issues/1/comments", json=comment, headers=person
        )
        assert (by_app.status_code, by_person.status_code) == (201, 201)
        [job] = await here.until_jobs(1)
        decided = await here.hub.server.result(job["id"], until="queued")

        assert (decided["state"], decided["dag_name"]) == ("queued", "triage")
        assert decided["issue_number"] == 1
        assert any("/permission" in each for each in here.noting.seen)
        assert here.noting.violations == []
