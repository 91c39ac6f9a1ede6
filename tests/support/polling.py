"""A hub that fetches its deliveries from a fake GitHub."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dispatchd.protocol.contracts import check
from support.deliveries_api import DeliveriesApi, key_file
from support.github_events import APP, SECRET, pull_request
from support.github_hub import RULES
from support.hub import HubHere, hub

ISSUES = """
[[github.rules]]
name = "triage"
workflow = "triage"
repositories = ["*"]
events = ["issues"]
actions = ["opened"]
"""
"""A rule for what is about no commit, so that GitHub hasn't to be told of its jobs."""

OPENED = pull_request()
CLOSED = pull_request("closed")


def config(
    api: DeliveriesApi,
    *,
    ingest: str = "poll",
    interval_s: float = 0.05,
    github: str = "",
    rules: str = RULES,
    more: str = "",
) -> str:
    """Return the tables of a hub that is the App of a fake."""
    return f"""
[github]
app_id = {APP}
private_key_file = "app-key.pem"
webhook_secret_files = ["webhook-secret"]
api_url = "{api.url}"
ingest = "{ingest}"
poll_interval_s = {interval_s}
{github}
{rules}
{more}
"""


def prepared(folder: Path, api: DeliveriesApi) -> Path:
    """Return a folder with the files that the configuration names."""
    key_file(folder, api)
    (folder / "webhook-secret").write_text(SECRET)
    return folder


@asynccontextmanager
async def polling_hub(
    folder: Path,
    api: DeliveriesApi,
    *,
    database_url: str = "sqlite:///hub.db",
    **options: Any,
) -> AsyncIterator[HubHere]:
    """Run a hub that polls for the length of a block."""
    folder = prepared(folder, api)
    more = config(api, **options)
    async with hub(folder, database_url=database_url, more=more) as server:
        yield server


async def status_of(server: HubHere) -> dict[str, Any]:
    """Return how a hub says that it gets on with GitHub."""
    reply = await server.http.get("/api/v1/github")
    status: dict[str, Any] = reply.json()
    check("hub-github-status", status)
    return status
