"""People log in with GitHub or an OpenID provider: what each sees, and what ends it; attacks on it are in test_hub_login_attacks."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from support.clock import advance, threads_are_idle
from support.hub_page import form_token, text
from support.machine import Machine
from support.people import CLIENT_SECRET, log_in
from support.people_scene import ROLES, SECRET, SHOP, Scene, scene
from support.until import until
from support.webhooks import FORGE, gitea, prepared, real


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path / "hub") as found:
        shop = {"repository_name": SHOP, "repository_id": 7}
        await found.hub.submit({"id": "seen", "dag_name": "ci", **shop})
        secret = {"repository_name": SECRET, "repository_id": 8}
        await found.hub.submit({"id": "hidden", "dag_name": "deploy", **secret})
        yield found


async def test_a_developer_sees_the_jobs_of_what_they_may_read_and_no_others(
    here: Scene,
) -> None:
    async with here.browser() as browser:
        asked = await browser.get("/jobs/seen")
        login = await browser.get(asked.headers["location"])
        back = await log_in(here.services, browser, "dev", next_path="/jobs/seen")
        shown = await browser.get("/jobs/seen")
        listed = await browser.get("/")
        others = [
            await browser.get(path.format(job))
            for path in ("/jobs/{}", "/log?id={}", "/log/events?id={}")
            for job in ("hidden", "none")
        ]
        artifacts = [
            await browser.get(f"/artifact?id={job}&path=x")
            for job in ("hidden", "none")
        ]
        first = await browser.get("/", params={"limit": "1"})
        filtered = await browser.get("/", params={"repository": SECRET})
        after, searched, after_none = [
            re.findall(
                'href="/jobs/([^"]+)"', (await browser.get("/", params=query)).text
            )
            for query in ({"before": "hidden"}, {"q": "deploy"}, {"before": "none"})
        ]
        api = [
            (await browser.get(f"/api/v1/{path}")).status_code
            for path in ("jobs", "jobs/seen", "jobs/hidden", "machines", "deliveries")
        ]
        closed = [
            (await browser.get(path)).status_code
            for path in ("/audit", "/queue", "/machines", "/deliveries", "/github")
        ]

    assert "Log in with GitHub" in login.text
    assert "Log in with Keycloak" in login.text
    # By a page of the hub's own: a browser sends the cookie with no redirect from elsewhere.
    assert '<meta http-equiv="refresh" content="0; url=/jobs/seen">' in back.text
    assert shown.status_code == 200
    assert "acme/shop" in text(shown)
    assert "Cancel this job" not in shown.text
    assert "dev" in listed.text
    assert "(reader)" in listed.text
    # Jobs that aren't theirs take no places of the list either.
    assert "ci" in text(listed)
    assert "/jobs/seen" in first.text
    for page in (listed, filtered):
        assert "deploy" not in page.text
        assert "hidden" not in text(page)
        assert "Machines" not in text(page)
        assert not re.search(r"queued\s*<b>", page.text)
    for of_hidden, of_none in zip(
        [*others[0::2], artifacts[0]], [*others[1::2], artifacts[1]], strict=True
    ):
        assert of_hidden.status_code == of_none.status_code == 404
        assert of_hidden.text.replace("hidden", "none") == of_none.text
        assert set(of_hidden.headers) == set(of_none.headers)
    assert api == [401] * 5
    assert closed == [404] * 5
    assert after == after_none == ["seen"]
    assert searched == []


async def test_as_many_questions_are_asked_for_a_hidden_job_as_for_none(
    here: Scene,
) -> None:
    async with here.person("dev") as browser:
        asked = []
        for job in ("hidden", "none"):
            await advance(121)
            here.services.requests.clear()
            await browser.get(f"/jobs/{job}")
            asked.append(sorted(here.services.requests))

    assert asked[0] == asked[1] == [f"GET /repos/{SECRET}", f"GET /repos/{SHOP}"]


async def test_what_github_answers_counts_for_two_minutes(here: Scene) -> None:
    async with here.person("dev") as browser:
        before = await browser.get("/jobs/seen")
        here.services.accounts["dev"].reads.clear()
        # Time passes by itself, too, and much of it on a busy machine.
        await advance(90)
        meanwhile = await browser.get("/jobs/seen")
        await advance(31)
        after = await browser.get("/jobs/seen")

    assert [each.status_code for each in (before, meanwhile, after)] == [200, 200, 404]


async def test_a_repository_that_got_the_name_of_another_shows_none_of_its_jobs(
    here: Scene,
) -> None:
    here.services.accounts["stranger"].reads = {SHOP: 99}
    async with here.person("stranger") as browser:
        shown, listed = await browser.get("/jobs/seen"), await browser.get("/")

    assert shown.status_code == 404
    assert "There are no jobs of a repository" in listed.text


async def test_a_token_that_github_has_revoked_ends_the_session(here: Scene) -> None:
    async with here.person("dev") as reader, here.person("vera") as viewer:
        assert (await viewer.get("/jobs/hidden")).status_code == 200
        here.services.tokens.clear()
        await advance(121)
        found = [await each.get("/jobs/seen") for each in (reader, viewer)]

    assert [each.status_code for each in found] == [303, 303]
    assert found[0].headers["location"].startswith("/login?next=")


async def test_an_account_that_github_has_suspended_sees_nothing_any_more(
    here: Scene,
) -> None:
    async with here.person("dev") as reader, here.person("vera") as viewer:
        here.services.blocked = True
        await advance(121)
        stays = await viewer.get("/jobs/hidden")
        here.services.blocked = False
        for login in ("dev", "vera"):
            here.services.accounts[login].is_suspended = True
        await advance(121)
        found = [
            (await each.get(path)).status_code
            for each, path in ((reader, "/jobs/seen"), (viewer, "/jobs/hidden"))
        ]

    assert stays.status_code == 200
    assert found == [404, 303]


async def test_a_webhook_s_job_is_of_no_repository_at_github(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "hub")
    async with scene(folder, more=FORGE) as here:
        shop = {"repository_name": SHOP, "repository_id": 7}
        await here.hub.submit({"id": "seen", "dag_name": "ci", **shop})
        await here.hub.submit(
            {"id": "named", "dag_name": "ci", "repository_name": SHOP}
        )
        # Anybody can make a repository of that name at GitHub.
        for number, name in enumerate((SHOP, "acme/inner")):
            push = {**real("gitea/push"), "repository": {"full_name": name}}
            reply = await gitea(here.hub, push, f"g-{number}")
            job = reply.json()["jobs"][0]
            async with here.person("dev") as reader:
                here.services.requests.clear()
                await advance(121)
                hidden = await reader.get(f"/jobs/{job}")
                listed = await reader.get("/")
                shown = [await reader.get(f"/jobs/{one}") for one in ("seen", "named")]

            assert hidden.status_code == 404
            assert job not in listed.text
            assert [each.status_code for each in shown] == [200, 200]
            # The names of another service aren't told to GitHub either.
            assert here.services.requests == [f"GET /repos/{SHOP}"]


async def test_a_session_lasts_as_long_as_its_token(here: Scene) -> None:
    async with here.person("vera") as browser:
        await advance(28_700)
        before = await browser.get("/")
        await advance(200)
        after = await browser.get("/")

    assert (before.status_code, after.status_code) == (200, 303)


async def posted(
    browser: httpx.AsyncClient, path: str, of: str = "/"
) -> httpx.Response:
    form = {"form_token": form_token(await browser.get(of)), "new_id": "again"}
    return await browser.post(path, data=form)


async def test_each_role_may_do_what_it_says(here: Scene) -> None:
    async with (
        here.person("vera") as viewer,
        here.person("olga") as operator,
        here.person("ada") as admin,
        here.person("dev") as reader,
    ):
        refused = [await posted(each, "/jobs/seen/cancel") for each in (viewer, reader)]
        ended = await posted(operator, "/jobs/hidden/cancel")
        again = await posted(admin, "/jobs/hidden/requeue")
        changed = await posted(operator, "/jobs/hidden/change")
        pages = [(await each.get("/audit")) for each in (viewer, operator, admin)]
        roles = [(await each.get("/")).text for each in (viewer, operator, admin)]
        machines = [(await each.get("/api/v1/machines")) for each in (viewer, admin)]

    assert [each.status_code for each in refused] == [403, 403]
    assert (ended.status_code, again.status_code) == (303, 303)
    # It is as much as to submit any job.
    assert changed.status_code == 403
    assert [each.status_code for each in pages] == [403, 403, 200]
    for name, shown in zip(("viewer", "operator", "admin"), roles, strict=True):
        assert f"({name})" in shown
        assert "Machines" in shown
        assert ("/audit" in shown) == (name == "admin")
    # The API is for tokens alone.
    assert [each.status_code for each in machines] == [401, 401]
    audit = text(pages[2])
    assert "olga (github:2)" in audit
    assert "POST /jobs/hidden/cancel" in audit
    assert "Cancel job hidden" in audit
    assert "Run job hidden again" in audit
    assert "done" in audit
    assert "ada (github:40)" in audit
    assert "127.0.0.1" in audit
    log = (here.hub.folder / "hub.log").read_text()
    assert "olga (github:2)" in log
    assert "person_logged_in" in log
    for secret in (CLIENT_SECRET, *here.services.tokens, "code-0"):
        assert secret not in log


async def test_an_operator_pauses_and_resumes_dispatch(here: Scene) -> None:
    machine = Machine(http=here.hub.http)
    async with here.person("vera") as viewer, here.person("olga") as operator:
        form = {"form_token": form_token(await operator.get("/"))}
        paused = await operator.post(
            "/dispatch/pause", data={**form, "reason": "<b>Move</b>"}
        )
        told = (await here.hub.http.get("/api/v1/dispatch")).json()
        none = await machine.ask()
        shown = await viewer.get("/")
        refused = await posted(viewer, "/dispatch/resume")
        resumed = await posted(operator, "/dispatch/resume")
        await machine.pull()

    assert (paused.status_code, resumed.status_code) == (303, 303)
    assert (told["paused"], told["reason"]) == (True, "<b>Move</b>")
    assert none.status_code == 204
    assert "&lt;b&gt;Move" in shown.text
    assert "Resume dispatch" not in shown.text
    assert refused.status_code == 403


async def test_the_audit_list_has_the_acts_of_tokens_too_and_forgets(
    tmp_path: Path,
) -> None:
    more = "[retention]\naudit_days = 0.1\n"
    async with scene(tmp_path / "hub", more=more) as here:
        await here.hub.http.post("/api/v1/dispatch/pause", json={"reason": "x"})
        async with here.person("ada") as admin:
            before = text(await admin.get("/audit"))
            await advance(2 * 3600)
            await here.hub.http.post("/api/v1/dispatch/resume")

            async def is_forgotten() -> str:
                await advance(600)
                page = text(await admin.get("/audit"))
                return "" if "dispatch/pause" in page else page

            after = await until(is_forgotten)

    assert "POST /api/v1/dispatch/pause" in before
    assert re.search(r"init-\w+", before)
    assert "POST /api/v1/dispatch/resume" in after


async def test_an_openid_provider_gives_roles_by_groups_and_verified_addresses(
    here: Scene,
) -> None:
    found = []
    for claims in (
        {"groups": ["staff", "ops"], "preferred_username": "olga"},
        {"email": "Kim@example.org", "email_verified": True},
        {"email": "kim@example.org"},
        {"groups": "ops"},
        {"groups": ["email:kim@example.org", "sub:s-1"]},
    ):
        here.services.claims = claims
        async with here.browser() as browser:
            reply = await log_in(here.services, browser, way="oidc")
            role = re.search(r"\((viewer|operator)\)", (await browser.get("/")).text)
        found.append((reply.status_code, role and role[1]))

    assert found == [
        (200, "operator"),
        (200, "viewer"),
        (403, None),
        (200, "operator"),
        (403, None),
    ]


async def test_a_person_logs_out_for_good(here: Scene) -> None:
    async with here.person("vera") as browser:
        kept = browser.cookies["dispatchd_hub"]
        here.services.away = True
        await advance(121)
        done = await posted(browser, "/logout")
        thief = {"cookie": f"dispatchd_hub={kept}"}
        after = await browser.get("/", headers=thief)

    assert done.status_code == 303
    assert after.status_code == 303


async def test_where_github_is_away_one_page_says_so_and_other_ways_stay(
    here: Scene,
) -> None:
    async with here.person("dev") as reader, here.person("olga") as operator:
        here.services.away = True
        await advance(121)
        shown = await reader.get("/jobs/seen")
        form = await reader.get("/login")
        stays = await operator.get("/jobs/hidden")
        left = await reader.post("/logout", data={"form_token": "x"})
    async with here.browser() as browser:
        back = await log_in(here.services, browser, "dev")
        oidc = [await browser.get("/login/oidc") for _ in range(5)][-1]
        token = here.hub.headers["authorization"].removeprefix("Bearer ")
        page = await browser.get("/login")
        login = {"form_token": form_token(page), "token": token}
        by_token = await browser.post("/login", data=login)

    assert shown.status_code == 503
    assert "GitHub gives no answer" in text(shown)
    assert "acme" not in shown.text
    assert form.status_code == 200
    assert stays.status_code == 200
    assert left.status_code == 403
    assert (back.status_code, oidc.status_code) == (503, 503)
    assert "Keycloak gives no answer" in text(oidc)
    # Anybody can bring that about, so the lines are few.
    log = (here.hub.folder / "hub.log").read_text()
    assert 1 <= log.count("login_service_away") <= 2
    assert by_token.status_code == 303


async def test_without_readers_only_roles_count(tmp_path: Path) -> None:
    more = "readers = false\n" + ROLES
    async with scene(tmp_path / "hub", github=more) as here:
        async with here.browser() as browser:
            refused = await log_in(here.services, browser, "dev")
            page = await browser.get("/")
        async with here.person("vera") as browser:
            entered = await browser.get("/")

    assert refused.status_code == 403
    assert "dev has no role here" in text(refused)
    assert (page.status_code, entered.status_code) == (303, 200)


async def test_a_reader_is_told_of_changes_of_their_jobs_alone(here: Scene) -> None:
    machine = Machine(http=here.hub.http)
    found = []
    async with (
        here.person("dev") as browser,
        browser.stream("GET", "/events") as stream,
    ):
        lines = stream.aiter_lines()

        async def heard() -> str:
            while (line := await anext(lines)) in {"", "data:"}:
                pass
            return line

        found.append(await heard())
        seen = await machine.pull()
        found.append(await heard())
        await advance(2)
        # Not even a heartbeat tells when something happens to the jobs of others.
        hidden = await machine.pull()
        for act in (hidden.accept, hidden.finish):
            await threads_are_idle()
            await advance(2)
            await act()
        await threads_are_idle()
        await advance(2)
        await seen.accept()
        found.append(await heard())
        await advance(16)
        found.append(await heard())

    assert (seen.id, hidden.id) == ("seen", "hidden")
    assert found == [": here", "event: changed", "event: changed", ": here"]
