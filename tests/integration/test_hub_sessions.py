"""What ends a session or a key ends it for everybody who has kept a copy."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from anyio import to_thread

from dispatchd.hub.auth.sessions import Sessions
from dispatchd.hub.domain.model import Token
from dispatchd.hub.init import init
from dispatchd.hub.storage.backup import restore
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.schema import MARKS, SECRETS
from dispatchd.hub.storage.tokens import TokenStore
from support.cli import dispatchd
from support.clock import advance
from support.hub import Hub, HubHere, hub
from support.threads import at_once

COOKIE = "dispatchd_hub"
ENROL = "/api/v1/licenses/activate"


def form_token(page: httpx.Response) -> str:
    [*_, found] = re.findall(r'name="form_token" value="([^"]+)"', page.text)
    return unescape(str(found))


@asynccontextmanager
async def browser(server: Hub) -> AsyncIterator[httpx.AsyncClient]:
    """Give a browser that has logged in as the owner."""
    token = server.headers["authorization"].removeprefix("Bearer ")
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as found:
        form = {"form_token": form_token(await found.get("/login")), "token": token}
        assert (await found.post("/login", data=form)).status_code == 303
        yield found


async def statuses(server: Hub, cookie: str) -> list[int]:
    """Return how the page, a call and the stream of events answer to a cookie."""
    headers = {"cookie": f"{COOKIE}={cookie}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as thief:
        return [
            (await thief.get(path)).status_code
            for path in ("/", "/api/v1/tokens", "/jobs?id=x")
        ]


async def test_a_cookie_of_the_public_address_is_for_https_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "client-secret").write_text("s3cret-of-the-client")
    login = """
[login]
public_url = "https://hub.example"
[login.oidc]
issuer = "https://id.example"
client_id = "hub"
client_secret_file = "client-secret"
"""
    found = {}
    async with (
        hub(folder, more=login) as server,
        httpx.AsyncClient(base_url=server.url, timeout=None) as http,
    ):
        token = server.headers["authorization"].removeprefix("Bearer ")
        # As behind a proxy with TLS that sends no X-Forwarded-Proto.
        for host in (
            "hub.example",
            "HUB.example:443",
            "other.example",
            "hub.example:80",
        ):
            http.cookies.clear()
            page = await http.get("/login", headers={"host": host})
            given = page.headers["set-cookie"].partition(";")[0]
            form = {"form_token": form_token(page), "token": token}
            reply = await http.post(
                "/login", data=form, headers={"host": host, "cookie": given}
            )
            assert reply.status_code == 303
            cookies = [
                *page.headers.get_list("set-cookie"),
                *reply.headers.get_list("set-cookie"),
            ]
            found[host] = {"; secure" in cookie.lower() for cookie in cookies}

    assert found == {
        "hub.example": {True},
        "HUB.example:443": {True},
        "other.example": {False},
        "hub.example:80": {False},
    }


async def logout(page: httpx.AsyncClient) -> None:
    form = {"form_token": form_token(await page.get("/"))}
    assert (await page.post("/logout", data=form)).status_code == 303


async def test_a_cookie_that_was_kept_counts_no_more_after_the_logout(
    server: Hub,
) -> None:
    async with browser(server) as page, browser(server) as other:
        kept, others = page.cookies[COOKIE], other.cookies[COOKIE]
        before = await statuses(server, kept)
        await logout(page)

        assert before[:2] == [200, 200]
        assert await statuses(server, kept) == [303, 401, 303]
        assert (await statuses(server, others))[:2] == [200, 200]


async def test_an_ended_session_is_remembered_until_its_time_is_over(
    server: HubHere,
) -> None:
    async with browser(server) as page:
        kept = page.cookies[COOKIE]
        await logout(page)
        await server.stop()
        await server.start()
        after_restart = await statuses(server, kept)
    await advance(13 * 3600)
    async with browser(server) as page:
        await logout(page)

    assert after_restart == [303, 401, 303]
    database = Database.open(f"sqlite:///{server.folder / 'hub.db'}")
    with database.snapshot() as db:
        names = [str(row.name) for row in db.execute(MARKS.select())]
    database.close()
    assert len([name for name in names if name.startswith("session ended ")]) == 1


async def rotate(server: Hub, name: str) -> dict[str, str]:
    done = await to_thread.run_sync(
        lambda: dispatchd("hub", "keys", "rotate", name, "--json", cwd=server.folder)
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


async def test_the_page_key_is_rotated_while_the_hub_goes_on(server: Hub) -> None:
    async with browser(server) as page:
        kept = page.cookies[COOKIE]

        assert await rotate(server, "page") == {"name": "page"}

        assert await statuses(server, kept) == [303, 401, 303]
    async with browser(server) as page:
        assert (await statuses(server, page.cookies[COOKIE]))[:2] == [200, 200]


async def test_a_backup_makes_no_session(server: Hub, tmp_path: Path) -> None:
    file, new = tmp_path / "backup.db", tmp_path / "new"
    async with browser(server) as page:
        kept = page.cookies[COOKIE]
        done = await to_thread.run_sync(
            lambda: dispatchd("hub", "backup", str(file), cwd=server.folder)
        )
        assert done.returncode == 0, done.stderr
        await logout(page)
    init(new, listen="127.0.0.1:0", database_url="sqlite:///hub.db", license_id="lic")
    database = Database.open(f"sqlite:///{new / 'hub.db'}")
    restore(file, database)
    sessions = Sessions.open(TokenStore(database), MarkStore(database))

    assert sessions.token(kept, now=time.time()) is None
    copy = Database.open(f"sqlite:///{file}")
    with copy.snapshot() as db:
        names = {row.name for row in db.execute(SECRETS.select())}
    assert names == {"license-signing-key"}
    copy.close()
    database.close()


async def license_token(server: Hub, name: str) -> str:
    made = (await server.http.post("/api/v1/machines", json={"name": name})).json()
    body = {
        "key": made["enrolment_key"],
        "server_id": f"srv-{name}",
        "machine_name": name,
    }
    reply = await server.http.post(ENROL, json=body)
    assert reply.status_code == 200, reply.text
    token: str = reply.json()["token"]
    return token


async def test_the_license_key_is_rotated_while_the_hub_goes_on(server: Hub) -> None:
    made = (await server.http.post("/api/v1/machines", json={"name": "x"})).json()
    before = await license_token(server, "first")

    found = await rotate(server, "license")

    after = await license_token(server, "other")
    times: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    for key, token in ((made["public_key"], before), (found["public_key"], after)):
        assert jwt.decode(token, key, algorithms=["EdDSA"], options=times)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(before, found["public_key"], algorithms=["EdDSA"], options=times)
    assert found["fingerprint"] != made["fingerprint"]


async def revoke(server: Hub, name: str) -> httpx.Response:
    return await server.http.post(f"/api/v1/tokens/{name}/revoke")


async def test_the_last_token_for_admin_is_not_revoked(server: Hub) -> None:
    tokens = (await server.http.get("/api/v1/tokens")).json()["tokens"]
    [first] = [each["name"] for each in tokens]
    for name, scope in (("reader", "read"), ("second", "admin")):
        body = {"name": name, "scopes": [scope]}
        await server.http.post("/api/v1/tokens", json=body)

    assert (await revoke(server, "second")).status_code == 204
    reply = await revoke(server, first)
    done = await to_thread.run_sync(
        lambda: dispatchd("hub", "token", "revoke", first, cwd=server.folder)
    )

    assert reply.status_code == 409
    assert "last token for admin" in reply.json()["message"]
    assert done.returncode != 0
    assert "last token for admin" in done.stderr
    assert (await server.http.get("/api/v1/tokens")).status_code == 200
    assert (await revoke(server, "reader")).status_code == 204
    assert (await revoke(server, "nobody")).status_code == 404


def test_of_two_owners_who_revoke_each_other_at_once_one_stays(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    tokens, now = TokenStore(database), time.time()
    for name in "ab":
        token = Token(name=name, token_hash=name, scopes="admin", created_at=now)
        tokens.add(token)

    def revoke_it(name: str) -> None:
        try:
            tokens.revoke(name, now=now)
        except Exception as error:  # noqa: BLE001  # judged by its words
            assert "last token" in str(error)  # noqa: PT017  # in a thread

    at_once([lambda: revoke_it("a"), lambda: revoke_it("b")])

    assert len([each for each in tokens.list() if not each.revoked_at]) == 1
    database.close()


async def link(server: Hub) -> str:
    done = await to_thread.run_sync(
        lambda: dispatchd("hub", "login-link", "--json", cwd=server.folder)
    )
    assert done.returncode == 0, done.stderr
    path, _, query = json.loads(done.stdout)["link"].partition("/login?")
    assert path.startswith("http")
    return f"/login?{query}"


async def entered(server: Hub, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url) as found:
        reply = await found.request(method, path)
        if reply.status_code == 303:
            assert (await found.get("/")).status_code == 200
        return reply


async def test_a_link_logs_in_once(server: Hub) -> None:
    path = await link(server)

    looked = await entered(server, path, "HEAD")
    first = await entered(server, path)
    again = await entered(server, path)

    assert looked.status_code == 200
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert again.status_code == 401
    assert "has been used, or is too old" in again.text
    assert COOKIE not in again.cookies
    assert "login_refused" in (server.folder / "hub.log").read_text()


async def test_of_many_who_use_a_link_at_once_one_is_logged_in(server: Hub) -> None:
    path, found = await link(server), []

    async def use() -> None:
        found.append((await entered(server, path)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(use)

    assert sorted(found) == [303, *[401] * 7]


async def test_a_link_is_for_ten_minutes_and_no_cookie(server: HubHere) -> None:
    path = await link(server)
    code = path.partition("=")[2]
    async with browser(server) as page:
        cookie = page.cookies[COOKIE]

    assert (await statuses(server, code))[:2] == [303, 401]
    assert (await entered(server, f"/login?once={cookie}")).status_code == 401
    assert (await entered(server, "/login?once=")).status_code == 401
    await advance(601)
    assert (await entered(server, path)).status_code == 401
