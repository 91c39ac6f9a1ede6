"""The hub's web page in a real headless Chromium: what is seen of it, how it updates itself, and that it is safe to use."""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from attrs import define, evolve
from playwright.async_api import Browser, expect

from dispatchd.hub.config.load import TOKEN_FILE
from dispatchd.hub.domain.model import ENDED, State
from dispatchd.protocol.report import LogChunk
from support.browser import Visit, chromium, visit
from support.hub import HubHere, hub
from support.machine import Held, Machine, row
from support.seed import (
    HOSTILE,
    hostile_job,
    job_in,
    many_entries,
    one_of_each,
    seed,
)

pytestmark = pytest.mark.host

LISTS = (
    *("/", "/?q=ci&state=failed", "/queue", "/machines", "/deliveries"),
    *("/github", "/audit"),
)
CI = {"dag_name": "ci", "repository_name": "o/r"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[HubHere]:
    async with hub(tmp_path / "hub") as found:
        yield found


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


@pytest.fixture
async def guest(browser: Browser, server: HubHere) -> AsyncIterator[Visit]:
    async with visit(browser, server) as found:
        yield found
        assert [
            each for each in found.requests if not each.startswith(server.url)
        ] == []


@pytest.fixture
async def owner(guest: Visit) -> Visit:
    await guest.login(admin_token(guest.hub))
    return guest


def admin_token(server: HubHere) -> str:
    return (server.folder / TOKEN_FILE).read_text().strip()


async def shoot(found: Visit, name: str) -> None:
    """Keep a screenshot for a person to look at, where DISPATCHD_SHOTS names a folder."""
    folder = os.environ.get("DISPATCHD_SHOTS")
    if folder:
        await found.page.screenshot(path=f"{folder}/{name}.png", full_page=True)


async def test_every_state_of_a_job_is_seen(owner: Visit) -> None:
    await to_thread.run_sync(one_of_each, owner.hub.folder)
    await owner.go("/")
    rows = owner.page.locator("table.jobs tbody tr")
    await expect(rows).to_have_count(len(State))
    words = await rows.locator("td:first-child .state").all_inner_texts()
    assert sorted(words) == sorted(state.replace("_", " ") for state in State)
    marks = owner.page.locator("table.jobs tbody tr .state .mark")
    shapes = [await mark.inner_html() for mark in await marks.all()]
    # Not by colour alone.
    assert len(set(shapes)) == len(State)
    await shoot(owner, "list")

    for state in State:
        await owner.go(f"/jobs/in-{state}")
        text = await owner.text()
        assert state.replace("_", " ") in text
        assert "Submitted" in text
        assert "octo-kim" in text
        assert ("Run again" in text) == (state in ENDED)
        await shoot(owner, f"job-{state}")
    await owner.go("/jobs/in-failed")
    assert "3 failed, 211 passed" in await owner.text("#output")
    assert "exit-code" in await owner.text()
    assert owner.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_nothing_is_wider_than_the_screen(
    browser: Browser, server: HubHere, scheme: str, width: int
) -> None:
    await to_thread.run_sync(one_of_each, server.folder)
    long = evolve(job_in(State.FAILED), id="long", result_output="y" * 3000)
    document = {**long.document, "dag_name": "w" * 300, "ref": "x" * 3000}
    await to_thread.run_sync(seed, server.folder, evolve(long, document=document))
    options: dict[str, Any] = {"color_scheme": scheme}
    options["viewport"] = {"width": width, "height": 900}
    await to_thread.run_sync(many_entries, server.folder)
    async with visit(browser, server, **options) as found:
        await found.login(admin_token(server))
        for path in (
            *LISTS,
            "/jobs/long",
            "/jobs/in-running",
            "/jobs/in-needs_attention",
        ):
            await found.go(path)
            wide = await found.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            await shoot(found, f"{scheme}-{width}{path.replace('/', '-')}")
        ground = await found.page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
    shade = sum(int(each) for each in re.findall(r"\d+", ground)[:3])
    assert (shade < 200) == (scheme == "dark")


async def test_the_list_and_a_job_update_themselves(owner: Visit) -> None:
    machine = Machine(http=owner.hub.http)
    await owner.is_live()
    await owner.page.evaluate("window.notLoadedAnew = true")

    await owner.hub.submit({"id": "j", **CI})
    row_of_j = owner.page.locator("table.jobs tbody tr", has_text="ci")
    await expect(row_of_j.locator(".state")).to_have_text("queued")
    held = await machine.pull()
    await expect(row_of_j.locator(".state")).to_have_text("claimed")
    await held.accept()
    await expect(row_of_j.locator(".state")).to_have_text("accepted")

    assert await owner.page.evaluate("window.notLoadedAnew")
    await row_of_j.get_by_role("link").click()
    await owner.is_live()
    await held.beat("running")
    stands = owner.page.locator('[data-live="stands"]')
    await expect(stands.locator(".big")).to_have_text("running")
    await held.finish("failed", "Exit code 7.")
    await expect(stands).to_contain_text("Exit code 7.")
    await expect(owner.page.locator(".timeline")).to_contain_text("Ended as failed")


async def test_it_says_when_the_hub_is_away_and_when_it_is_back(owner: Visit) -> None:
    await owner.is_live()

    await owner.hub.stop()
    await owner.page.get_by_text("Not connected", exact=True).wait_for()
    await owner.hub.start()
    await owner.hub.submit({"id": "j", **CI})

    await owner.is_live()
    await expect(owner.page.locator("table.jobs tbody tr")).to_have_count(1)


async def test_the_keyboard_is_enough(guest: Visit) -> None:
    for number in range(3):
        await guest.hub.submit({"id": f"j{number}", **CI})
    await guest.go("/")
    keyboard = guest.page.keyboard
    await expect(guest.page.get_by_label("Access token")).to_be_focused()
    await keyboard.insert_text(admin_token(guest.hub))
    await keyboard.press("Enter")
    await guest.page.wait_for_url(f"{guest.hub.url}/")

    await keyboard.press("Tab")
    focused = guest.page.locator(":focus")
    await expect(focused).to_have_text("Skip to the content")
    await expect(focused).to_be_in_viewport()
    for _ in range(60):
        if await focused.get_attribute("data-key"):
            break
        await keyboard.press("Tab")
    await keyboard.press("j")
    await keyboard.press("ArrowDown")
    await keyboard.press("k")
    outline = await focused.evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline != "none"
    await keyboard.press("Enter")
    await guest.page.wait_for_url(f"{guest.hub.url}/jobs/j1")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_pages_are_accessible(
    browser: Browser, server: HubHere, scheme: str, width: int
) -> None:
    await to_thread.run_sync(one_of_each, server.folder)
    await to_thread.run_sync(many_entries, server.folder)
    await server.http.post("/api/v1/dispatch/pause", json={"reason": "Move"})
    states = State if width > 1000 else (State.RUNNING, State.NEEDS_ATTENTION)
    paths = (*LISTS, "/jobs/none", *(f"/jobs/in-{state}" for state in states))
    options: dict[str, Any] = {"color_scheme": scheme}
    options["viewport"] = {"width": width, "height": 900}
    async with visit(browser, server, **options) as found:
        await found.go("/login")
        wrong = {"/login": await found.violations()}
        await found.login(admin_token(server))
        for path in paths:
            await found.go(path)
            wrong[path] = await found.violations()
        await found.go("/")
        await found.page.keyboard.press("?")
        wrong["keys"] = await found.violations()

    assert {path: said for path, said in wrong.items() if said} == {}


async def test_keys_find_rows_and_times_are_local(
    browser: Browser, server: HubHere
) -> None:
    for number in range(3):
        await server.submit({"id": f"j{number}", **CI})
    options: dict[str, Any] = {"timezone_id": "Asia/Tokyo", "locale": "en-GB"}
    async with visit(browser, server, **options) as found:
        await found.login(admin_token(server))
        await found.is_live()
        keyboard, focused = found.page.keyboard, found.page.locator(":focus")
        as_of = found.page.locator('[data-live="as-of"] time')
        local, utc = await as_of.inner_text(), await as_of.get_attribute("title")

        await keyboard.press("j")
        await keyboard.press("j")
        second = await focused.get_attribute("href")
        await keyboard.press("/")
        await expect(found.page.get_by_label("Search")).to_be_focused()
        # A key is text there.
        await keyboard.type("j?")
        await expect(found.page.get_by_label("Search")).to_have_value("j?")
        await keyboard.press("Tab")
        await keyboard.press("?")
        dialog = found.page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        await dialog.get_by_label("Keys of a single character").uncheck()
        await keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await keyboard.press("?")
        await expect(dialog).to_be_hidden()
        complaints = found.complaints

    assert second == "/jobs/j1"
    assert "UTC" not in local
    assert str(utc).endswith("UTC")
    hour, hour_of_utc = (
        int(re.findall(r"(\d\d):\d\d:\d\d", text)[0]) for text in (local, str(utc))
    )
    assert hour == (hour_of_utc + 9) % 24
    assert complaints == []


async def test_it_reads_without_javascript(browser: Browser, server: HubHere) -> None:
    await server.submit({"id": "j", **CI})
    await server.submit({"id": "k", "dag_name": "docs"})
    async with visit(browser, server, java_script_enabled=False) as found:
        await found.login(admin_token(server))
        await found.page.locator("summary", has_text="Filter").click()
        await found.page.get_by_label("Workflow").fill("docs")
        await found.page.get_by_role("button", name="Filter").click()
        await expect(found.page.locator("table.jobs tbody tr")).to_have_count(1)
        await found.page.get_by_role("link", name="docs").click()
        assert "queued" in await found.text()
        await found.page.get_by_role("button", name="Cancel this job").click()
        await expect(found.page.locator(".big")).to_have_text("aborted")
        await found.page.get_by_role("button", name="Run again").click()
        await expect(found.page.locator(".big")).to_have_text("queued")

    assert (await row(server, "k"))["state"] == "aborted"


async def test_hostile_texts_are_only_shown(owner: Visit) -> None:
    job = hostile_job()
    await to_thread.run_sync(seed, owner.hub.folder, job)
    await owner.go("/")
    await owner.page.locator("table.jobs tbody a").click()
    text = await owner.text()

    assert HOSTILE in text
    assert "\\u202e" in text
    assert "owned" not in (await owner.page.title()).split("<")[0]
    assert await owner.page.locator("main script, main img").count() == 0
    assert owner.complaints == []


async def test_a_note_stays_while_the_page_updates_itself(owner: Visit) -> None:
    await owner.hub.submit({"id": "j", **CI})
    held = await Machine(http=owner.hub.http).pull()
    await held.accept()
    await held.beat("needs_attention", reason="Which?", parked="stay-1")
    await owner.go("/jobs/j")
    await owner.is_live()
    note = owner.page.get_by_label("Note")
    await note.fill("More disk.")
    before = await owner.page.locator('[data-live="timeline"]').inner_html()

    await held.beat("needs_attention", reason="Which one?", parked="stay-2")

    await owner.page.wait_for_function(
        "before => document.querySelector('[data-live=timeline]').innerHTML !== before",
        arg=before,
    )
    await expect(note).to_have_value("More disk.")


async def test_a_log_grows_on_the_page(owner: Visit) -> None:
    await owner.hub.submit({"id": "j", **CI})
    held = await Machine(http=owner.hub.http).pull()
    await held.accept()
    await held.beat()
    await owner.go("/jobs/j")
    log = owner.page.locator("#log")
    await expect(log).to_be_hidden()

    first = LogChunk(attempt=1, offset=0, data=b"one\n")
    await held.machine.call("log", "j", **first.to_wire())
    await expect(log).to_have_text("one\n")
    hostile = b"\x1b[31mtwo\x1b[0m <img src=x onerror=document.title='pwned'>\n"
    second = LogChunk(attempt=1, offset=4, data=hostile)
    await held.machine.call("log", "j", **second.to_wire())

    await expect(log.locator(".f1")).to_have_text("two")
    await expect(log).to_contain_text("<img src=x")
    assert await log.locator("img").count() == 0
    await log.locator("#L2").click(position={"x": 5, "y": 5})
    await owner.page.wait_for_url(re.compile(r"/jobs/j\?line=2#L2$"))
    assert (await held.beat()).json()["watching"] is True
    await shoot(owner, "log")


TEXT = b"".join(b"line %d\n" % number for number in range(400))


@define
class RunningLog:
    """Log of a job that a machine sends."""

    held: Held
    size: int = 0

    @classmethod
    async def of(cls, server: HubHere, data: bytes) -> "RunningLog":
        """Return the log of a new job, with its beginning."""
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()
        await held.accept()
        await held.beat()
        log = cls(held)
        await log.add(data)
        return log

    async def add(self, data: bytes) -> None:
        """Send more of it."""
        chunk = LogChunk(attempt=1, offset=self.size, data=data)
        await self.held.machine.call("log", "j", **chunk.to_wire())
        self.size += len(data)


async def test_words_are_found_in_a_log(owner: Visit) -> None:
    hostile = b"<img src=x onerror=1>\x1b[2J\xe2\x80\xae(a.b) [\xc3\x84rger\n"
    await RunningLog.of(
        owner.hub, TEXT + b"an \x1b[31mERR\x1b[0mOR here, errors\n" + hostile + TEXT
    )
    await owner.go("/jobs/j")
    said = owner.page.locator("#find-said")
    field = owner.page.get_by_label("Find in the log")

    for words, answer in (
        ("error", "1 of 3, line 401"),
        ("error here", "1 of 1, line 401"),
        ("<img src=x onerror=1>", "1 of 1, line 402"),
        ("(a.b) [\xe4rger", "1 of 1, line 402"),
        ("\\u202e(a", "1 of 1, line 402"),
        ("a.c", "Not in the part shown"),
        ("e", "1 of 807, line 1"),
        ("", ""),
    ):
        await field.fill(words)
        # From the beginning, however far the log was scrolled.
        await owner.page.evaluate("document.getElementById('log').scrollTop = 0")
        await field.dispatch_event("input")
        await expect(said).to_have_text(answer)
    assert await owner.page.locator("#log img").count() == 0
    assert owner.complaints == []


async def test_the_keyboard_steps_through_what_is_found_while_a_log_grows(
    owner: Visit,
) -> None:
    log = await RunningLog.of(owner.hub, TEXT + TEXT)
    await owner.go("/jobs/j")
    keyboard, said = owner.page.keyboard, owner.page.locator("#find-said")
    field = owner.page.get_by_label("Find in the log")

    await keyboard.press("/")
    await expect(field).to_be_focused()
    await keyboard.type("line 399")
    # What can be seen comes first: a log is shown at its end.
    await expect(said).to_have_text("2 of 2, line 800")
    await keyboard.press("Enter")
    await expect(said).to_have_text("1 of 2, line 400")
    await log.add(b"last line 399\n")
    await expect(said).to_have_text("1 of 3, line 400")
    await keyboard.press("Shift+Enter")
    await expect(said).to_have_text("3 of 3, line 801")
    assert await owner.page.evaluate("CSS.highlights.get('found').size") == 3
    place = "[...CSS.highlights.get('found-now')][0].getBoundingClientRect().top"
    box = "document.getElementById('log').getBoundingClientRect()"
    assert await owner.page.evaluate(f"{place} > {box}.top && {place} < {box}.bottom")
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await expect(said).to_have_text("1 of 3, line 400")
    await shoot(owner, "find")
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await expect(said).to_have_text("3 of 3, line 801")
    await field.fill("")
    await field.press("Escape")
    await expect(owner.page.locator("#log")).to_be_focused()
    assert owner.complaints == []


GROUPS = (
    b"before\n::group::Compile <b>\nobject\n::endgroup::\nbetween\n"
    b"::group::Test\n::error::wrong\n##[group]Upload\nsent\n"
)


async def test_groups_of_a_log_are_folds(owner: Visit) -> None:
    log = await RunningLog.of(owner.hub, GROUPS)
    await owner.go("/jobs/j")
    folds, page = owner.page.locator("#log details"), owner.page
    titles = folds.locator("summary")

    # Closed where it has ended, without an error.
    await expect(titles).to_have_text(["Compile <b>", "Test", "Upload"])
    states = [await fold.get_attribute("open") for fold in await folds.all()]
    assert states == [None, "", ""]
    assert await owner.violations() == []
    await shoot(owner, "folds")

    # A group goes on in what comes later, and is closed with it.
    await log.add(b"more\n")
    await log.add(b"::endgroup::\nafter\n::group::Last\nlast\n")
    await expect(titles).to_have_count(4)
    await titles.nth(2).press("Enter")
    await expect(page.locator("#L9")).to_be_hidden()
    await expect(page.locator("#L10")).to_be_hidden()
    await expect(page.locator("#log .in #L11")).to_be_hidden()
    await expect(page.locator("#L12")).to_be_visible()
    await log.add(b"the end\n")
    await expect(page.locator("#L15")).to_be_visible()

    # What is found opens its fold.
    field = page.get_by_label("Find in the log")
    for words, line in (("more", 10), ("object", 3)):
        await field.fill(words)
        await expect(page.locator("#find-said")).to_have_text(f"1 of 1, line {line}")
        await expect(page.locator(f"#L{line}")).to_be_visible()
    await titles.nth(2).click()
    await expect(page.locator("#L10")).to_be_hidden()
    await titles.nth(2).click()
    await expect(page.locator("#L10")).to_be_visible()
    await titles.nth(2).click()
    await page.evaluate("location.hash = '#L10'")
    await expect(page.locator("#L10")).to_be_in_viewport()
    # The number of a title is an address as that of any line.
    await page.locator("#L2").click(position={"x": 5, "y": 5})
    await page.wait_for_url(re.compile(r"line=2#L2$"))
    assert await folds.first.get_attribute("open") == ""
    assert owner.complaints == []


async def test_an_address_opens_the_fold_that_its_line_is_in(owner: Visit) -> None:
    await RunningLog.of(owner.hub, GROUPS)
    await owner.go("/jobs/j")
    await expect(owner.page.locator("#L3")).to_be_hidden()

    for path in ("/jobs/j#L3", "/jobs/j?line=3", "/jobs/j?line=3#L3"):
        await owner.go("/")
        await owner.go(path)
        await expect(owner.page.locator("#L3")).to_be_visible()


async def test_a_fold_opens_without_javascript(
    browser: Browser, server: HubHere
) -> None:
    await RunningLog.of(server, GROUPS)
    async with visit(browser, server, java_script_enabled=False) as found:
        await found.login(admin_token(server), "/jobs/j")
        await expect(found.page.locator("#L3")).to_be_hidden()
        await found.page.locator("summary", has_text="Compile").click()
        await expect(found.page.locator("#L3")).to_be_visible()


async def test_what_was_hidden_is_shown_once_its_title_has_gone(owner: Visit) -> None:
    log = await RunningLog.of(owner.hub, b"::group::Endless\n")
    await owner.go("/jobs/j")
    title = owner.page.locator("#log summary")
    await log.add(b"first\n")
    await title.click()
    await expect(owner.page.locator("#L2")).to_be_hidden()

    # As page.js does with what has come long ago.
    await owner.page.evaluate("document.querySelector('#log').firstChild.remove()")

    await expect(owner.page.locator("#L2")).to_be_visible()
    assert owner.complaints == []


def spans(count: int) -> list[dict[str, Any]]:
    """Return phases and spans of a run as a machine reports them."""
    phase = {"kind": "phase", "name": HOSTILE, "start_seconds": 0.1}
    span = {"kind": "span", "name": "y" * 90, "duration_seconds": 0.2, "ok": False}
    return [
        {**phase, "duration_seconds": 30},
        *({**span, "start_seconds": number} for number in range(count)),
    ]


async def test_phases_and_spans_of_a_run_are_below_its_time(owner: Visit) -> None:
    await owner.hub.submit({"id": "j", **CI})
    machine = Machine(http=owner.hub.http)
    held = await machine.pull()
    await held.accept()
    await held.beat()
    token = {"claim_token": held.token, "result_status": "failed"}
    reply = await machine.call("finish", "j", **token, result_spans=spans(40))
    assert reply.is_success
    await owner.go("/jobs/j")

    rows = owner.page.get_by_label("Phases and spans of the run").locator("li")
    await expect(rows).to_have_count(30)
    await expect(rows.first).to_contain_text(HOSTILE)
    await expect(rows.first).to_contain_text("from 0.1 s")
    await expect(rows.nth(2)).to_contain_text("failed yyy")
    await expect(rows.nth(2)).to_contain_text("from 1 s")
    assert "11 more" in await owner.text()
    wide = await owner.page.evaluate(
        "[document.documentElement.scrollWidth, innerWidth]"
    )
    assert wide[0] <= wide[1]
    assert await owner.violations() == []
    await shoot(owner, "spans")
    assert owner.complaints == []
