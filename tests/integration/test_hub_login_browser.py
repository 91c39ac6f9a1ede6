"""The way of a developer from a check to the job, on real processes: emulate, a hub, a daemon, and Chromium."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import jwt
import pytest
from attrs import define
from playwright.async_api import expect

from support import daemon_process, hub_process
from support.browser import Visit, chromium, visit
from support.checks import github_table
from support.daemon import write_config
from support.github import (
    APP_ID,
    INSTALLATION,
    PERSON_TOKEN,
    REPOSITORY,
    app_key,
    emulate,
)
from support.hub import HubHere
from support.hub_process import HubProcess
from support.people import CLIENT_ID, CLIENT_SECRET
from support.torture import lasting_port
from support.until import until

pytestmark = pytest.mark.host

RULES = """
[[github.rules]]
name = "tests"
workflow = "it"
repositories = ["octo/*"]
events = ["pull_request"]
[login.github]
client_id = "CLIENT"
client_secret_file = "client-secret"
admins = ["octo"]
"""
SCRIPT = """
echo "a line of the log"
echo "::error file=app.py,line=3::A broken line"
echo "## Three tests failed" >> "$GITHUB_STEP_SUMMARY"
exit 1
"""


@define
class Github:
    """emulate, as a hub needs it."""

    url: str
    key: str


@define
class Here:
    """A hub with one job of a private repository, and the address of *Details* of its check."""

    hub: HubProcess
    details: str


async def pull_request(url: str, key: str) -> str:
    """Let the developer in, open a pull request, and return its commit."""
    now = int(time.time())
    claims = {"iss": str(APP_ID), "iat": now - 60, "exp": now + 500}
    proof = jwt.encode(claims, key, algorithm="RS256")
    mint = f"{url}/app/installations/{INSTALLATION}/access_tokens"
    async with httpx.AsyncClient(
        base_url=f"{url}/repos/{REPOSITORY}", timeout=60
    ) as http:
        reply = await http.post(mint, headers={"Authorization": f"Bearer {proof}"})
        http.headers["Authorization"] = f"Bearer {reply.json()['token']}"
        owner = {"Authorization": f"Bearer {PERSON_TOKEN}"}
        added = await http.put("/collaborators/dev", json={}, headers=owner)
        assert added.status_code < 300, added.text
        main = (await http.get("/branches/main")).json()["commit"]["sha"]
        await http.post("/git/refs", json={"ref": "refs/heads/topic", "sha": main})
        file = {"message": "Say hello", "content": "aGVsbG8=", "branch": "topic"}
        made = await http.put("/contents/hello.txt", json=file)
        opened = {"title": "Hello", "head": "topic", "base": "main"}
        reply = await http.post("/pulls", json=opened)
        assert reply.status_code == 201, reply.text
        sha: str = made.json()["commit"]["sha"]
        return sha


async def concluded(url: str, sha: str) -> dict[str, Any]:
    owner = {"Authorization": f"Bearer {PERSON_TOKEN}"}
    async with httpx.AsyncClient(timeout=60, headers=owner) as http:

        async def look() -> dict[str, Any] | None:
            reply = await http.get(f"{url}/repos/{REPOSITORY}/commits/{sha}/check-runs")
            [*found] = reply.json()["check_runs"]
            done = [each for each in found if each["status"] == "completed"]
            return done[0] if done else None

        check: dict[str, Any] | None = await until(look, 120)
        assert check is not None
        return check


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Here]:
    key, port = app_key(), lasting_port()
    url = f"http://127.0.0.1:{port}"
    logins = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "name": "dispatch",
        "redirect_uris": [f"{url}/login/github/callback"],
    }
    with emulate(
        folder,
        key,
        webhook_url=f"{url}/webhooks/github",
        webhook_secret="s3cret",
        people=("dev", "stranger"),
        logins=logins,
    ) as there:
        table = github_table(
            folder, Github(there, key), RULES.replace("CLIENT", CLIENT_ID)
        )
        table = table.replace("https://hub.example/base/", url)
        (folder / "hub").mkdir()
        (folder / "hub" / "client-secret").write_text(CLIENT_SECRET)
        async with hub_process.hub(folder / "hub", more=table, port=port) as hub:
            config = write_config(
                folder / "machine", hub.url, {"it": ["/bin/sh", "-c", SCRIPT]}
            )
            async with daemon_process.running_daemon(config):
                sha = await pull_request(there, key)
                check = await concluded(there, sha)
                yield Here(hub, check["details_url"])


async def enter(guest: Visit, details: str, who: str) -> None:
    """Open *Details* as a link on another site, and log in as somebody at GitHub."""
    await guest.page.set_content(f'<a href="{details}">Details</a>')
    await guest.page.get_by_role("link", name="Details").click()
    await guest.page.get_by_role("link", name="Log in with GitHub").click()
    await guest.page.get_by_text(who, exact=True).first.click()
    await guest.page.wait_for_url(details)


@pytest.mark.timeout(600)
async def test_details_of_a_check_opens_for_who_may_read_the_repository(
    tmp_path: Path,
) -> None:
    async with here(tmp_path) as found, chromium() as browser:
        hub = cast("HubHere", found.hub)
        async with visit(browser, hub) as dev, visit(browser, hub) as stranger:
            await enter(dev, found.details, "dev")
            await expect(dev.page.locator("#log")).to_contain_text("a line of the log")
            shown = await dev.text()
            await dev.go("/")
            listed = await dev.text()
            await enter(stranger, found.details, "stranger")
            hidden = await stranger.text()
            nothing = await stranger.go("/jobs/none")
            none = await stranger.text()
            await stranger.go("/")
            empty = await stranger.text()
            await dev.page.get_by_role("button", name="Log out").click()
            await expect(dev.page.get_by_label("Access token")).to_be_visible()
            complaints = dev.complaints

    job_id = found.details.rpartition("/")[2]
    for text in ("Three tests failed", "A broken line", "app.py", "octo/hello"):
        assert text in shown
    assert "Cancel" not in shown
    assert "octo/hello" in listed
    assert "Machines" not in listed
    assert nothing == 404
    assert hidden == none.replace("none", job_id)
    assert "octo" not in empty
    assert complaints == []
