"""A hub that takes GitHub's events: its files, and how GitHub sends to it."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from jsonschema import Draft202012Validator

from support.github_events import SECRET, signature
from support.golden import ROOT
from support.hub import Hub
from support.machine import JOBS

_HUB: dict[str, Any] = json.loads(
    (ROOT / "contracts" / "hub.openapi.json").read_text("utf-8")
)
_COMPONENTS = _HUB["components"]
GITHUBS = "/webhooks/github"

NEW_SECRET = "the next one"
TOKEN = "github-token-of-the-hub"

RULES = """
[[github.rules]]
name = "tests"
workflow = "ci"
repositories = ["*"]
events = ["pull_request", "push", "merge_group"]
forks = "command"
priority = 3
[[github.rules]]
name = "lint"
workflow = "lint"
repositories = ["Codertocat/*"]
events = ["pull_request"]
[[github.rules]]
name = "deploy"
workflow = "deploy"
repositories = ["*"]
command = "deploy"
"""

CONFIG = f"""
[github]
token_file = "github-token"
api_url = "http://127.0.0.1:9"
webhook_secret_files = ["webhook-secret", "webhook-secret-2"]
{RULES}
"""
"""A hub whose GitHub never answers."""


def prepared(folder: Path) -> Path:
    """Return a folder with the secrets that the configuration names."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in {
        "github-token": TOKEN,
        "webhook-secret": SECRET,
        "webhook-secret-2": NEW_SECRET + "\n",
    }.items():
        (folder / name).write_text(text)
    return folder


async def send(
    server: Hub,
    event: str,
    payload: Any,
    delivery: str = "",
    *,
    secret: str = SECRET,
    target: str = "4711",
    form: bool = False,
    headers: Mapping[str, str | None] = MappingProxyType({}),
) -> httpx.Response:
    """Send an event as GitHub does; a header that is None is left out."""
    text = payload if isinstance(payload, (str, bytes)) else json.dumps(payload)
    body = text if isinstance(text, bytes) else text.encode()
    if form:
        body = urlencode({"payload": text}).encode()
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    sent = {
        "X-GitHub-Delivery": delivery or str(uuid4()),
        "X-GitHub-Event": event,
        "X-GitHub-Hook-ID": "1",
        "X-GitHub-Hook-Installation-Target-Type": "integration",
        "X-GitHub-Hook-Installation-Target-ID": target,
        "X-Hub-Signature-256": signature(body, secret),
        "Content-Type": kind,
        "User-Agent": "GitHub-Hookshot/044aadd",
        **headers,
    }
    reply = await server.http.post(
        "/webhooks/github",
        content=body,
        headers={name: value for name, value in sent.items() if value is not None},
    )
    # A hub that has nothing to do with GitHub doesn't know the path.
    if reply.status_code != HTTPStatus.NOT_FOUND:
        require_declared(reply)
    return reply


def require_declared(reply: httpx.Response, path: str = GITHUBS) -> None:
    """Fail unless an answer to a webhook is one that the hub's description has."""
    answer = _HUB["paths"][path]["post"]["responses"][str(reply.status_code)]
    if "$ref" in answer:
        answer = _COMPONENTS["responses"][answer["$ref"].rpartition("/")[2]]
    reference = answer["content"]["application/json"]["schema"]["$ref"]
    schema = _COMPONENTS["schemas"][reference.rpartition("/")[2]]
    Draft202012Validator(schema).validate(reply.json())
    assert reply.headers["content-type"] == "application/json"
    assert ("retry-after" in reply.headers) == ("headers" in answer)


async def deliveries(server: Hub) -> list[dict[str, Any]]:
    """Return every delivery, oldest first."""
    reply = await server.http.get("/api/v1/deliveries", params={"limit": "1000"})
    rows: list[dict[str, Any]] = reply.json()["deliveries"]
    return rows


async def jobs(server: Hub) -> list[dict[str, Any]]:
    """Return every job, oldest first."""
    reply = await server.http.get(JOBS, params={"limit": "1000"})
    rows: list[dict[str, Any]] = reply.json()["jobs"]
    return rows
