"""A real headless Chromium, and everything that it asks for and complains of while a test uses it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from support.hub import HubHere

AXE = (
    Path(__file__).parents[2] / ".venv" / "mocks" / "node_modules" / "axe-core"
) / "axe.min.js"
"""Judge of accessibility (`make .venv/.mocks`)."""

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
NAMES = ("chromium", "chromium-browser", "google-chrome")

PATIENCE_MS = 20_000
"""Longest wait for anything on a page (milliseconds)."""

expect.set_options(timeout=PATIENCE_MS)


@define
class Visit:
    """A browser of its own for one visitor; `requests` has the addresses that it asked for."""

    hub: HubHere
    context: BrowserContext
    page: Page
    requests: list[str] = field(factory=list)
    complaints: list[str] = field(factory=list)
    """What the browser says of errors, and of what the page's policy has kept out."""

    async def go(self, path: str) -> int:
        """Open a path of the hub, and return the status of the answer."""
        reply = await self.page.goto(f"{self.hub.url}{path}")
        assert reply is not None
        return reply.status

    async def login(self, token: str, path: str = "/") -> None:
        """Open a path as somebody who has to log in for it."""
        await self.go(path)
        await self.page.get_by_label("Access token").fill(token)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url(f"{self.hub.url}{path}")

    async def violations(self) -> list[str]:
        """Return what axe-core finds wrong with the page: each rule, and the first places; skip the test without axe-core."""
        if not AXE.exists():
            pytest.skip("needs axe-core: run `make .venv/.mocks`")
        # By the debugger's protocol: the policy of the page lets no other script in.
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate(
            "rules => axe.run(document, {runOnly: rules}).then(r => r.violations)",
            RULES,
        )
        return [
            f"{each['id']}: {[node['target'] for node in each['nodes'][:3]]}"
            for each in found
        ]

    async def text(self, selector: str = "main") -> str:
        """Return what can be read of a part of the page."""
        return await self.page.locator(selector).inner_text()

    async def is_live(self) -> None:
        """Return once the page updates itself."""
        await self.page.get_by_text("Live", exact=True).wait_for()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser for the length of a block, or skip the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    async with async_playwright() as playwright:
        # Root, as tests may be in a container, has no sandbox.
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visit(browser: Browser, hub: HubHere, **options: Any) -> AsyncIterator[Visit]:
    """Give somebody a browser without any cookie for the length of a block."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    visitor = Visit(hub, context, page)
    context.on("request", lambda request: visitor.requests.append(request.url))
    page.on(
        "console",
        lambda said: (
            visitor.complaints.append(said.text)
            if said.type in {"error", "warning"}
            else None
        ),
    )
    page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    try:
        yield visitor
    finally:
        await context.close()
