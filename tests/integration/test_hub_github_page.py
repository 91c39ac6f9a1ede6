"""The page of GitHub: how the hub gets on with it, from what the hub has stored."""

import re
from pathlib import Path

import httpx

from dispatchd.hub.domain.model import Delivery
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.delivery_cursor import Loss, Progress, mark_of
from support.checks import checks_hub
from support.github_api import Fault, github_api
from support.hub import Hub
from support.hub_page import admin_token, login, text

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"


async def page_of(server: Hub) -> tuple[str, str]:
    """Return the page as the owner sees it: its source, and what can be read of it."""
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as owner:
        await login(owner, admin_token(server))
        reply = await owner.get("/github")
        assert reply.status_code == 200
        return reply.text, " ".join(text(reply).split())


async def test_a_hub_without_github_says_so(server: Hub) -> None:
    _, words = await page_of(server)

    assert "nothing to do with GitHub" in words
    assert "dispatchd hub github setup" in words


async def test_what_github_has_not_taken_and_what_failed_is_shown(
    tmp_path: Path,
) -> None:
    async with github_api() as github:
        limit = Fault(status=429, message=HOSTILE, headers={"retry-after": "3000"})
        github.trap("POST check-runs", limit, times=float("inf"))
        async with checks_hub(tmp_path, github) as checks:
            checks.add("j")
            await checks.ring()
            await checks.in_time(lambda: checks.check("j").failures)
            settings = checks.server.context.settings.github
            assert settings is not None
            progress = Progress(
                watermark=1_760_000_000,
                trouble=HOSTILE,
                trouble_at=1_760_000_100,
                losses=(Loss(since=1_750_000_000, until=1_750_000_600),),
            )
            MarkStore(checks.database).put(mark_of(settings.target), progress.as_mark())
            delivery = Delivery(id="d", installation=4242, received_at=1_760_000_000)
            DeliveryStore(checks.database).keep_new([delivery])
            source, words = await page_of(checks.server)

    assert "1 waits to be written; for 1 of these it has failed before." in words
    assert 'href="/jobs/j"' in source
    assert "429" in words
    assert re.search("none for (49|5[0-9]) min", words)
    assert "4242" in words
    assert "Deliveries can't be fetched since 2025-10-09" in words
    assert "GitHub doesn't keep them any more" in words
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e" in source
    assert "<script>alert" not in source
