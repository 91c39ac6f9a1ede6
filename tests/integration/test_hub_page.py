"""The hub's web page over HTTP: what it shows, whom it lets in, and what it lets nobody do."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from anyio import to_thread

from dispatchd.hub.domain.model import ENDED, State
from dispatchd.protocol.report import LogChunk
from support.clock import advance, within
from support.hub import Hub
from support.hub_page import admin_token, form_token, login, text
from support.machine import JOBS, Machine, row
from support.seed import HOSTILE, hostile_job, many_entries, one_of_each, seed

CI = {"dag_name": "ci", "repository_name": "o/r"}
COOKIE = "dispatchd_hub"
HANDING_OVER = ("claim 1", "handed over")
"""Parts of a job's time that take as long as the hub and a machine need."""
POLICY = "default-src 'none'"


@asynccontextmanager
async def stranger(server: Hub) -> AsyncIterator[httpx.AsyncClient]:
    """Give somebody a client that has nothing to show for itself."""
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as found:
        yield found


@pytest.fixture
async def guest(server: Hub) -> AsyncIterator[httpx.AsyncClient]:
    async with stranger(server) as found:
        yield found


@pytest.fixture
async def owner(server: Hub, guest: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await login(guest, admin_token(server))).status_code == 303
    return guest


async def new_token(server: Hub, *scopes: str) -> str:
    body = {"name": "-".join(scopes), "scopes": list(scopes)}
    reply = await server.http.post("/api/v1/tokens", json=body)
    found: str = reply.json()["token"]
    return found


def jobs(page: httpx.Response) -> list[str]:
    """Return the rows of the list of jobs."""
    table = page.text.partition('<table class="jobs"')[2].partition("</table>")[0]
    return re.findall(r"<tr>.*?</tr>", table.partition("<tbody>")[2], re.DOTALL)


async def test_a_machine_shows_what_it_is_bound_to(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    before = text(await owner.get("/machines"))
    for name, body in (
        ("a", {"repositories": ["acme/*"]}),
        ("b", {"workflows": ["ci", "docs"]}),
    ):
        await server.http.post(f"/api/v1/machines/{name}/bind", json=body)

    after = " ".join(text(await owner.get("/machines")).split())

    assert "bound to" not in before
    assert "bound to any workflow of acme/*" in after
    assert "bound to ci, docs of any repository" in after


async def test_every_state_of_a_job_is_said(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await to_thread.run_sync(one_of_each, server.folder)

    rows = jobs(await owner.get("/"))

    assert len(rows) == len(State)
    # Not by colour alone.
    assert len({re.findall(r"<svg.*?</svg>", each)[0] for each in rows}) == len(State)
    for state in State:
        word = state.replace("_", " ")
        assert any(f"<span>{word}</span>" in each for each in rows)
        said = text(await owner.get(f"/jobs/in-{state}"))
        assert word in said
        assert "Submitted" in said
        assert "octo-kim" in said
        assert ("Run again" in said) == (state in ENDED)
    failed = text(await owner.get("/jobs/in-failed"))
    assert "3 failed, 211 passed" in failed
    assert "exit-code" in failed


async def test_a_job_is_cancelled_and_submitted_once_more_by_its_page(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "k", **CI})
    page = await owner.get("/jobs/k")
    assert "Cancel this job" in text(page)

    done = await owner.post("/jobs/k/cancel", data={"form_token": form_token(page)})
    assert done.headers["location"] == "/jobs/k"
    assert (await row(server, "k"))["state"] == "aborted"

    page = await owner.get("/jobs/k")
    new_id = page.text.split('name="new_id" value="')[1].split('"')[0]
    form = {"form_token": form_token(page), "new_id": new_id}
    pressed = [await owner.post("/jobs/k/requeue", data=form) for _ in range(2)]
    assert [done.headers["location"] for done in pressed] == [f"/jobs/{new_id}"] * 2
    again = await owner.get(f"/jobs/{new_id}")
    assert "queued" in text(again)
    assert len((await server.http.get("/api/v1/jobs")).json()["jobs"]) == 2


async def test_a_job_is_run_again_with_other_values(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    first = {"id": "k", "sha": "aaa", "from_fork": True, "delivery_id": "d-1", **CI}
    await server.submit(first, payload='{"n": 1.50}')
    page = await owner.get("/jobs/k")
    assert "with these values" not in text(page)
    await owner.post("/jobs/k/cancel", data={"form_token": form_token(page)})
    page = await owner.get("/jobs/k")
    form = {"form_token": form_token(page), "workflow": "docs", "sha": "bbb"}

    async def post(new_id: str, **fields: str) -> httpx.Response:
        data = {**form, "new_id": new_id, **fields}
        return await owner.post("/jobs/k/change", data=data)

    pressed = [await post("new", payload='{"n": 1.50}') for _ in range(2)]
    wrong = [
        await post("odd", payload="{"),
        await post("odd", workflow=" "),
        await post("odd", ref="x" * 600),
        await post("new", workflow="other"),
    ]
    got = (await Machine(http=server.http).pull()).job

    assert [each.headers["location"] for each in pressed] == ["/jobs/new"] * 2
    assert [each.status_code for each in wrong] == [422, 422, 422, 409]
    assert (got["id"], got["dag_name"], got["sha"]) == ("new", "docs", "bbb")
    assert (got["repository_name"], got["from_fork"]) == ("o/r", True)
    assert "delivery_id" not in got
    # The exact text, which another form of the number would not be.
    assert "&#34;n&#34;: 1.50" in page.text
    assert "Run job k again with changes" in text(await owner.get("/audit"))


@asynccontextmanager
async def time_passes() -> AsyncIterator[None]:
    """Let a minute pass in no time, again and again."""

    async def passing() -> None:
        while True:
            await advance(60)
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(passing)
        yield
        tasks.cancel_scope.cancel()


async def test_an_open_page_is_told_of_changes_until_its_session_ends(
    server: Hub, guest: httpx.AsyncClient
) -> None:
    await login(guest, await new_token(server, "read"))
    async with guest.stream("GET", "/events") as stream:
        events = stream.aiter_text()
        with within(20):
            assert await anext(events) == ": here\n\n"
            await server.submit({"id": "j", **CI})
            assert await anext(events) == "event: changed\ndata:\n\n"
            # A proxy may close a stream that is silent for longer.
            async with time_passes():
                while ": here" not in await anext(events):
                    pass
            await server.http.post("/api/v1/tokens/read/revoke")
            await server.submit({"id": "k", **CI})
            assert "changed" not in "".join([each async for each in events])

    assert stream.headers["content-type"].startswith("text/event-stream")
    assert (await guest.get("/events")).status_code == 401


async def test_head_of_a_stream_is_answered_at_once(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    """Seen: the answer to HEAD had to wait for the end of events that don't end."""
    await server.submit({"id": "j", **CI})
    with within(20):
        for path in ("/events", "/log/events?id=j&from=1-0-"):
            answer = await owner.head(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")


async def test_filters_find_what_they_say(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await to_thread.run_sync(one_of_each, server.folder)
    await server.submit({"id": "j", **CI})

    for query, count in [
        ("state=failed", 1),
        ("repository=o/r", 1),
        ("workflow=build", len(State)),
        ("workflow=build&state=queued", 1),
        ("workflow=none", 0),
    ]:
        assert len(jobs(await owner.get(f"/?{query}"))) == count, query
    odd = await owner.get("/?state=odd")
    assert odd.status_code == 422
    assert "no state" in text(odd)


async def test_a_search_finds_words_of_a_job_s_origin_among_those_it_may(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    for number, ref in enumerate(("refs/heads/main", "refs/heads/Größe", "v1")):
        job = {"id": f"j{number}", "ref": ref, "actor_login": "Octo-Kim", **CI}
        await server.submit({**job, "pull_request_number": number + 10})

    async def found(query: str) -> list[str]:
        page = await owner.get(f"/?{query}")
        return re.findall(r'href="/jobs/(j\d)"', page.text)

    assert await found("q=MAIN") == ["j0"]
    assert await found("q=gr%C3%B6%C3%9Fe+octo") == ["j1"]
    assert await found("q=%2312") == ["j2"]
    assert await found("q=octo-kim&workflow=ci&limit=2") == ["j2", "j1"]
    assert await found("q=octo-kim&before=j1") == ["j0"]
    assert await found("q=dag_name") == []
    assert "No job fits" in text(await owner.get("/?q=nothing"))


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("/?workflow=ci&limit=2", r'href="/jobs/(j\d)"'),
        ("/audit", r"Cancel job j(\d+)<"),
        ("/deliveries", r'data-key="(d\d+)"'),
    ],
)
async def test_a_list_is_read_in_parts_and_each_entry_once(
    server: Hub, owner: httpx.AsyncClient, page: str, pattern: str
) -> None:
    await to_thread.run_sync(many_entries, server.folder)
    for number in range(5):
        await server.submit({"id": f"j{number}", **CI})
    seen: list[str] = []
    parts = 0
    while page:
        shown = await owner.get(page)
        seen += re.findall(pattern, " ".join(shown.text.split()))
        # What comes meanwhile moves nothing.
        await server.submit({"id": f"new-{parts}", **CI})
        older = re.search(r'<a href="([^"]+)" rel="next"', shown.text)
        page, parts = unescape(older[1]) if older else "", parts + 1

    assert parts > 1
    assert len(seen) == len(set(seen)) >= 5


async def test_the_queue_is_in_the_order_of_dispatch_and_says_why_each_job_waits(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    machine = Machine(http=server.http, workflows=["ci"])
    await machine.ask()
    for number, priority in enumerate((0, 5, 0)):
        await server.submit({"id": f"j{number}", "priority": priority, **CI})
    last = text(await owner.get("/jobs/j2"))
    await server.submit({"id": "d", "dag_name": "deploy"})

    queue = await owner.get("/queue")
    order = re.findall(r'href="/jobs/(j\d)"', queue.text)
    deploy = text(await owner.get("/jobs/d"))
    taken = [(await machine.pull()).id for _ in range(3)]
    busy = text(await owner.get("/machines"))

    assert order == taken == ["j1", "j0", "j2"]
    assert "2 queued jobs are before it" in last
    assert "No active machine has the workflow deploy." in deploy
    assert "No active machine has the workflow deploy." in text(queue)
    assert "busy" in busy
    await server.http.post("/api/v1/dispatch/pause", json={"reason": "<b>Move</b>"})
    paused = await owner.get("/jobs/d")
    assert "Dispatch is paused: &lt;b&gt;Move&lt;/b&gt;." in paused.text


async def test_a_job_is_shown_and_found_by_its_title(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    title = "<b>Mend</b> \u202eparser\x1b[2J " + "x" * 300
    for number, said in enumerate((title, " ", None)):
        await server.submit({"id": f"j{number}", "title": said, **CI})
    listed, found = await owner.get("/"), jobs(await owner.get("/?q=mend+parser"))
    page = (await owner.get("/jobs/j0")).text

    first, second, third = reversed(jobs(listed))
    assert "&lt;b&gt;Mend&lt;/b&gt; \\u202eparser\\x1b[2J xxx" in first
    assert "<bdi>ci</bdi> · " not in first
    assert "<bdi>ci</bdi>" in first
    assert "x" * 121 not in first
    assert '<bdi class="name">ci</bdi>' in second
    assert '<bdi class="name">ci</bdi>' in third
    assert [re.findall(r'href="/jobs/(\w+)"', row_) for row_ in found] == [["j0"]]
    assert "<h1><bdi>&lt;b&gt;Mend" in page
    assert "<b>Mend" not in listed.text + page
    refused = await server.http.post(JOBS, json={"id": "k", "title": [1], **CI})
    assert refused.status_code == 422


async def test_the_parts_of_a_job_s_time_fall_below_its_bar(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    async def falls() -> list[tuple[str, str]]:
        page = (await owner.get("/jobs/j")).text
        rows = page.partition('class="falls"')[2].partition("</ul>")[0]
        return re.findall(r"<span>([^<]+)</span>.*?<span>([^<]+)</span>", rows)

    machine = Machine(http=server.http)
    await server.submit({"id": "j", **CI})
    await advance(5)
    await (await machine.pull()).release()
    await advance(3)
    held = await machine.pull()
    await held.accept()
    for phase, wait_s in (("accepted", 7), ("running", 60), ("finishing", 20)):
        await held.beat(phase)
        await advance(wait_s)
    reporting = await falls()
    await held.finish("succeeded", "Done.")
    await advance(100)
    job = (await server.http.get(f"{JOBS}/j")).json()

    names = ["waiting", "waiting", "starting", "running", "reporting"]
    assert [name for name, _ in reporting if name not in HANDING_OVER] == names
    assert [name for name, _ in await falls()] == [name for name, _ in reporting]
    assert dict(reporting)["running"].startswith("1 min")
    # Time passes by itself, too.
    assert job["started_at"] - job["accepted_at"] >= 7
    assert job["run_ended_at"] - job["started_at"] >= 60
    assert job["finished_at"] - job["run_ended_at"] >= 20


async def test_an_address_names_a_line_of_a_log(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    await held.beat()
    lines = b"".join(b"line %06d\n" % number for number in range(1, 20_001))
    chunk = LogChunk(attempt=1, offset=0, data=lines)
    await held.machine.call("log", "j", **chunk.to_wire())

    end, early, over = [
        (await owner.get(f"/jobs/j{query}")).text
        for query in ("", "?line=500", "?line=99999999")
    ]

    assert '<i id="L20000" data-n="20000"></i>line 020000\n' in end
    assert 'id="L500"' not in end
    assert '<i id="L500" data-n="500"></i>line 000500\n' in early
    assert 'id="L20000"' not in early
    assert 'id="L20000"' in over


async def test_a_job_that_is_being_cancelled_says_so(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    await server.http.post(f"{JOBS}/j/cancel")

    for path in ("/", "/jobs/j"):
        assert "cancelling" in text(await owner.get(path))


async def test_hostile_texts_are_escaped(server: Hub, owner: httpx.AsyncClient) -> None:
    job = hostile_job()
    await to_thread.run_sync(seed, server.folder, job)
    [link] = re.findall(r'<a href="([^"]+)" data-key', (await owner.get("/")).text)

    page = await owner.get(unescape(link))

    assert HOSTILE in text(page)
    assert "\\u202e" in text(page)
    assert "<script>document" not in page.text
    assert "<img" not in page.text


async def test_what_was_reported_of_a_job_is_on_its_page(
    server: Hub, owner: httpx.AsyncClient, machine: Machine
) -> None:
    await server.http.post(JOBS, json={"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    remark = {"path": "a.py", "start_line": 3, "level": "failure", "message": HOSTILE}
    await machine.call(
        "finish",
        held.id,
        claim_token=held.token,
        result_status="failed",
        result_step_summary=f"## Tests\n{HOSTILE}",
        result_outputs={"coverage": "97"},
        result_annotations=[remark],
    )

    page = (await owner.get("/jobs/j")).text

    assert HOSTILE not in page
    assert unescape(page).count(HOSTILE) == 2
    assert "<h4>Tests</h4>" in page
    for words in ("coverage", "97", "a.py</bdi>:3"):
        assert words in page


async def test_a_machine_that_is_gone_is_away(
    server: Hub, owner: httpx.AsyncClient, machine: Machine
) -> None:
    await machine.ask()

    async def state() -> str:
        found = (await server.http.get("/api/v1/machines")).json()["machines"]
        [each] = [each for each in found if each["name"] == machine.name]
        text = (await server.http.get("/metrics")).text
        silent = f'dispatchd_hub_machine_last_seen_seconds{{machine="{machine.name}"}} '
        [line] = [each for each in text.splitlines() if each.startswith(silent)]
        is_away = float(line.split()[-1]) > 600
        assert is_away == (each["state"] == "away")
        assert not is_away or "is-away" in (await owner.get("/machines")).text
        return str(each["state"])

    assert await state() == "active"
    await server.http.post(JOBS, json={"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    for _ in range(20):  # It is full, and beats for what it has.
        await advance(50)
        await held.beat()
    assert await state() == "active"
    await advance(30 * 60)
    assert await state() == "away"
    await machine.ask()
    assert await state() == "active"


async def test_only_a_token_that_may_read_gets_in(
    server: Hub, guest: httpx.AsyncClient
) -> None:
    revoked = await new_token(server, "read")
    await server.http.post("/api/v1/tokens/read/revoke")
    for token, status, words in [
        ("wrong", 401, "not valid here"),
        (revoked, 401, "not valid here"),
        (await new_token(server, "submit"), 403, "not for read or admin"),
    ]:
        refused = await login(guest, token)
        assert refused.status_code == status
        assert words in text(refused)
    assert COOKIE not in guest.cookies
    assert (await guest.get("/")).headers["location"] == "/login?next=%2F"


async def test_a_session_is_bound_to_its_token_and_its_cookie_to_this_site(
    server: Hub, guest: httpx.AsyncClient
) -> None:
    reply = await login(guest, await new_token(server, "read"))
    [cookie] = [
        each
        for each in reply.headers.get_list("set-cookie")
        if each.startswith(f"{COOKIE}=")
    ]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    await server.submit({"id": "j", **CI})
    # Reading is all that this token is for.
    page = await guest.get("/jobs/j")
    assert "queued" in text(page)
    assert "Cancel" not in text(page)
    form = {"form_token": form_token(page)}
    assert (await guest.post("/jobs/j/cancel", data=form)).status_code == 403

    await server.http.post("/api/v1/tokens/read/revoke")

    assert (await guest.get("/")).headers["location"] == "/login?next=%2F"


async def test_who_logs_out_is_out(owner: httpx.AsyncClient) -> None:
    page = await owner.get("/")

    await owner.post("/logout", data={"form_token": form_token(page)})

    assert (await owner.get("/")).headers["location"] == "/login?next=%2F"


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "\t//x"]
)
async def test_a_login_leads_nowhere_else(
    server: Hub, guest: httpx.AsyncClient, wanted: str
) -> None:
    page = await guest.get(f"/login?next={quote(wanted, safe='')}")
    # Neither by the address of the page, nor by what is sent.
    assert '<input type="hidden" name="next" value="/">' in page.text
    form = {"form_token": form_token(page), "token": admin_token(server)}
    reply = await guest.post("/login", data={**form, "next": wanted})

    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    # Nor by an address that is asked for by who is logged in already.
    shown = await guest.get(f"/login?next={quote(wanted, safe='')}")
    assert shown.headers["location"] == "/"


async def test_a_login_leads_to_the_page_that_was_wanted(
    server: Hub, guest: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    sent_on = await guest.get("/jobs/j")
    assert sent_on.headers["location"] == "/login?next=%2Fjobs%2Fj"

    reply = await login(guest, admin_token(server), "/jobs/j")

    assert reply.headers["location"] == "/jobs/j"


async def test_a_form_that_no_page_of_the_session_made_changes_nothing(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    good = {"form_token": form_token(await owner.get("/jobs/j"))}
    async with stranger(server) as other:
        await login(other, admin_token(server))
        others = {"form_token": form_token(await other.get("/jobs/j"))}
    here = {"origin": server.url}
    elsewhere = {"origin": "https://evil.example"}
    cross = {**here, "sec-fetch-site": "cross-site"}
    tries: list[tuple[dict[str, str], dict[str, Any]]] = [
        (here, {}),
        (here, {"form_token": "wrong"}),
        (here, others),
        (elsewhere, good),
        (cross, good),
    ]

    for headers, form in tries:
        reply = await owner.post("/jobs/j/cancel", headers=headers, data=form)
        assert reply.status_code == 403
    # The API takes no cookie for what changes something.
    refused = await owner.post(f"{JOBS}/j/cancel", headers=here)
    assert refused.status_code == 401
    assert (await row(server, "j"))["state"] == "queued"

    done = await owner.post("/jobs/j/cancel", headers=here, data=good)
    assert done.status_code == 303
    assert (await row(server, "j"))["state"] == "aborted"


async def test_every_answer_keeps_everything_else_out(server: Hub) -> None:
    for path in ("/", "/login", "/jobs/none", "/events"):
        headers = (await server.http.get(path)).headers
        assert headers["content-security-policy"].startswith(POLICY), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


async def test_what_isnt_there_is_said_in_a_page(owner: httpx.AsyncClient) -> None:
    missing = await owner.get("/jobs/none")
    assert missing.status_code == 404
    assert "There is no job none." in text(missing)
    assert '<a href="/">All jobs</a>' in missing.text
    assert "No jobs yet." in text(await owner.get("/"))


async def test_a_parked_job_is_decided_by_its_page_as_it_stood_there(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    stay = {"reason": "Which?", "parked": "stay-1"}
    await held.beat("needs_attention", **stay)
    page = await owner.get("/jobs/j")
    token = {"form_token": form_token(page), "note": "<b>More</b> disk."}
    assert [each in text(page) for each in ("Retry", "Mark failed")] == [True, True]

    wrong = await owner.post("/jobs/j/resolve", data={**token, "as": "cancel"})
    old = await owner.post(
        "/jobs/j/resolve", data={**token, "as": "fail", "parked": "stay-0"}
    )
    done = await owner.post(
        "/jobs/j/resolve", data={**token, "as": "retry", "parked": "stay-1"}
    )
    after = await owner.get("/jobs/j")
    beat = await held.beat("needs_attention", **stay)

    assert (wrong.status_code, old.status_code, done.status_code) == (422, 409, 303)
    assert beat.json()["resolve"]["note"] == "<b>More</b> disk."
    assert "retry, waiting for its machine" in text(after)
    assert "&lt;b&gt;More" in after.text
    assert "Mark failed" not in text(after)


async def test_the_page_of_a_job_that_its_machine_alone_decides_has_the_command(
    server: Hub, owner: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    await held.beat("needs_attention", reason="Which?")

    page = await owner.get("/jobs/j")

    assert "dispatchd resolve j --retry, --fail or --succeed" in text(page)
    assert "Mark failed" not in text(page)


async def test_who_only_reads_decides_nothing(
    server: Hub, guest: httpx.AsyncClient
) -> None:
    await server.submit({"id": "j", **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    await held.beat("needs_attention", reason="Which?", parked="stay-1")
    await login(guest, await new_token(server, "read"))
    page = await guest.get("/jobs/j")
    form = {"form_token": form_token(page), "as": "retry", "parked": "stay-1"}

    reply = await guest.post("/jobs/j/resolve", data=form)

    assert reply.status_code == 403
    assert "Mark failed" not in text(page)
    assert (await row(server, "j"))["decision"] is None
