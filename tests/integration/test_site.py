"""The site that `make site` has built, in a real browser: it draws its pictures and loads nothing from elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.async_api import expect
from typing_extensions import override

from support.browser import chromium

pytestmark = pytest.mark.release

SITE = Path(__file__).parents[2] / "build" / "site"


class Quiet(SimpleHTTPRequestHandler):
    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    """Serve the site for the length of a block; yields its address."""
    handler = partial(Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(not SITE.exists(), reason="needs `make site`")
async def test_pictures_are_drawn_and_nothing_comes_from_elsewhere() -> None:
    asked: list[str] = []
    with served() as url:
        async with chromium() as browser:
            page = await browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            await page.goto(url)
            await page.get_by_role("link", name="Architecture", exact=True).click()
            await expect(page.locator("div.mermaid")).to_have_count(3)
            await page.get_by_role("button", name="Search").first.click()
            await page.keyboard.type("quarantine")
            await expect(page.get_by_text("A record is in").first).to_be_visible()

    assert f"{url}docs/architecture.html" in asked
    assert [each for each in asked if not each.startswith(url)] == []
