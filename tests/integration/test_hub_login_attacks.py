"""Attacks on the login of people: each ends without a session, and in one clear page."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import jwt
import pytest
from anyio import to_thread
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.clock import advance
from support.hub_page import form_token, text
from support.people import begun, log_in, provider_key, signed
from support.people_scene import Scene, scene

COOKIE, BEGUN = "dispatchd_hub", "dispatchd_hub_begun"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path / "hub") as found:
        found.services.claims = {"groups": ["ops"]}
        yield found


async def is_out(browser: httpx.AsyncClient) -> bool:
    return (await browser.get("/")).status_code == 303


async def test_an_answer_counts_once_and_in_the_browser_that_asked(here: Scene) -> None:
    async with here.browser() as victim, here.browser() as attacker:
        # The attacker's own code and state, in the victim's browser (login CSRF).
        theirs = here.services.authorize(await begun(attacker, "github"), "olga")
        forced = await victim.get(theirs)
        mine = here.services.authorize(await begun(victim, "github"), "olga")
        forced_while_begun = await victim.get(theirs)
        assert await is_out(victim)

        mine = here.services.authorize(await begun(victim, "github"), "olga")
        kept = {"cookie": f"{BEGUN}={victim.cookies[BEGUN]}"}
        entered = await victim.get(mine)
        here.services.requests.clear()
        again = await victim.get(mine)
        replayed = await attacker.get(mine, headers=kept)

    assert entered.status_code == 200
    refused = (forced, forced_while_begun, again, replayed)
    assert [each.status_code for each in refused] == [401] * 4
    assert all(COOKIE not in each.cookies for each in refused)
    assert all("begun in another browser" in each.text for each in refused)
    # The service isn't even asked.
    assert here.services.requests == []


async def test_no_answer_to_another_login_ends_the_one_under_way(here: Scene) -> None:
    async with here.browser() as browser:
        # As in two tabs, or where somebody sends the browser here with an answer of theirs.
        before = here.services.authorize(await begun(browser, "github"), "olga")
        mine = here.services.authorize(await begun(browser, "github"), "olga")
        forced = "/login/github/callback?code=a&state=b"
        codes = [
            (await browser.get(path)).status_code for path in (before, forced, mine)
        ]

    assert codes == [401, 401, 200]


async def test_a_code_of_somebody_else_is_of_no_use_without_the_verifier(
    here: Scene,
) -> None:
    async with here.browser() as victim, here.browser() as attacker:
        stolen = here.services.authorize(await begun(victim, "github"), "olga")
        code = dict(parse_qsl(urlsplit(stolen).query))["code"]
        own = here.services.authorize(await begun(attacker, "github"), "stranger")
        state = dict(parse_qsl(urlsplit(own).query))["state"]
        query = urlencode({"code": code, "state": state})
        reply = await attacker.get(f"/login/github/callback?{query}")

        assert reply.status_code == 401
        assert "bad_verification_code" in reply.text
        assert await is_out(attacker)


async def test_a_login_takes_ten_minutes_at_most_and_stays_with_its_way(
    here: Scene,
) -> None:
    async with here.browser() as browser:
        late = here.services.authorize(await begun(browser, "github"), "olga")
        await advance(601)
        too_late = await browser.get(late)
        mixed = here.services.authorize(await begun(browser, "github"), "olga")
        other = await browser.get(mixed.replace("/github/", "/oidc/"))
        headed = here.services.authorize(await begun(browser, "github"), "olga")
        head = await browser.head(headed)
        entered = await browser.get(headed)

    for reply in (too_late, other):
        assert reply.status_code == 401
        assert "begun in another browser" in reply.text
    assert (head.status_code, entered.status_code) == (405, 200)


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\n/evil.example",
        "/" + "x" * 5000,
    ],
)
async def test_nobody_is_sent_elsewhere_afterwards(here: Scene, path: str) -> None:
    async with here.browser() as browser:
        reply = await log_in(here.services, browser, "olga", next_path=path)

    assert '<meta http-equiv="refresh" content="0; url=/">' in reply.text
    assert "evil" not in reply.text


async def test_the_service_returns_to_the_configured_address_whatever_the_host(
    here: Scene,
) -> None:
    async with here.browser() as browser:
        headers = {"host": "evil.example", "x-forwarded-host": "evil.example"}
        for way in ("github", "oidc"):
            reply = await browser.get(f"/login/{way}", headers=headers)
            query = dict(parse_qsl(urlsplit(reply.headers["location"]).query))
            assert query["redirect_uri"] == f"{here.hub.url}/login/{way}/callback"
        reply = await browser.get("/login/none")

    assert reply.status_code == 404


def forged(claims: dict[str, Any], alg: str) -> str:
    """Return a token that is signed with the provider's public key as if that were a secret; PyJWT refuses to make one."""
    public = provider_key().public_key()
    key = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def part(document: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")

    text = part({"alg": alg, "kid": "key-1", "typ": "JWT"}) + b"." + part(claims)
    signature = hmac.new(key, text, hashlib.sha256).digest() if alg != "none" else b""
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def of_other_key(claims: dict[str, Any]) -> str:
    return signed(
        claims, rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )


def with_own_key_inside(claims: dict[str, Any]) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return signed(claims, key, jwk=jwk)


def with_edited_claims(claims: dict[str, Any]) -> str:
    head, _, signature = signed({**claims, "groups": []}).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    def token(claims: dict[str, Any]) -> str:
        document = {**claims, **changes}
        return signed({k: v for k, v in document.items() if v is not None})

    return token


NOW = int(time.time())
TOKENS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no signature": lambda claims: forged(claims, "none"),
    "no signature, other case": lambda claims: forged(claims, "nOnE"),
    "the public key as a secret": lambda claims: forged(claims, "HS256"),
    "another key": of_other_key,
    "its own key inside": with_own_key_inside,
    "edited claims": with_edited_claims,
    "unknown key id": lambda claims: signed(claims, kid="other"),
    "another issuer": changed(iss="https://evil.example"),
    "another audience": changed(aud="other-client"),
    "shared without a party": changed(aud=["Iv1.hub", "other-client"]),
    "for another party": changed(aud=["Iv1.hub", "other"], azp="other"),
    "another login": changed(nonce="x"),
    "no login": changed(nonce=None),
    "expired": changed(exp=NOW - 3600),
    "from the future": changed(iat=NOW + 86_400),
    "no end": changed(exp=None),
    "an end that is no number": changed(exp="9999999999"),
    "an end beyond all floats": changed(exp=10**400),
    "a beginning beyond all floats": changed(nbf=-(10**400)),
    "an end that never comes": changed(exp=float("inf")),
    "an end that is not to be compared": changed(exp=float("nan")),
    "no subject": changed(sub=None),
    "a subject that is no text": changed(sub=["s-1"]),
    "a subject that is half a character": changed(sub="\ud800"),
    "a long subject": changed(sub="s" * 256),
    "no token": lambda _: None,
    "no text": lambda _: {"a": 1},
    "garbage": lambda _: "a.b.c",
}


async def test_no_forged_id_token_begins_a_session(here: Scene) -> None:
    found: dict[str, object] = {}
    async with here.browser() as browser:
        for name, token in TOKENS.items():
            here.services.id_token = token
            reply = await log_in(here.services, browser, way="oidc")
            found[name] = (reply.status_code, COOKIE in browser.cookies)
        here.services.id_token = signed
        good = await log_in(here.services, browser, way="oidc")

    assert found == dict.fromkeys(TOKENS, (401, False))
    assert good.status_code == 200


async def test_an_answer_of_another_issuer_is_refused(here: Scene) -> None:
    found = []
    sends = {"authorization_response_iss_parameter_supported": True}
    async with here.browser() as browser:
        for metadata, issuer in (
            ({}, "https://evil.example"),
            (sends, ""),
            (sends, here.services.issuer),
            ({}, ""),
        ):
            here.services.metadata = metadata
            await advance(301)
            back = here.services.authorize(await begun(browser, "oidc"))
            if issuer:
                back += "&" + urlencode({"iss": issuer})
            found.append((await browser.get(back)).status_code)
        here.services.metadata = {"issuer": "https://evil.example"}
        await advance(301)
        mixed = await browser.get("/login/oidc")
        here.services.metadata = {"token_endpoint": "http://evil.example/token"}
        await advance(301)
        back = here.services.authorize(await begun(browser, "oidc"))
        in_clear = await browser.get(back)
        no_addresses = []
        for address in ("https://[", "https://a/\ud800", "https://a:b/", "", 5):
            here.services.metadata = {"authorization_endpoint": address}
            await advance(301)
            no_addresses.append((await browser.get("/login/oidc")).status_code)

    assert found == [401, 401, 200, 200]
    assert (mixed.status_code, in_clear.status_code) == (503, 503)
    assert no_addresses == [503] * 5


async def test_an_error_of_the_service_is_shown_without_what_strangers_add(
    here: Scene,
) -> None:
    async with here.browser() as browser:
        for error, shown in (
            ("access_denied", "it says access_denied"),
            ("<b>x</b>", "an error without a name"),
        ):
            address = await begun(browser, "github")
            state = dict(parse_qsl(urlsplit(address).query))["state"]
            query = {"error": error, "error_description": "call 555", "state": state}
            reply = await browser.get("/login/github/callback", params=query)
            assert reply.status_code == 401
            assert shown in reply.text
            assert "555" not in reply.text


async def test_no_cookie_but_this_hub_s_own_is_a_session(
    here: Scene, tmp_path: Path
) -> None:
    document = {
        "id": "x",
        "expires_at": 9e9,
        "person": {
            "way": "github",
            "subject": "40",
            "name": "ada",
            "names": ["id:40"],
            "token": "",
            "lasts_s": 1,
        },
    }
    own = Fernet(Fernet.generate_key()).encrypt(json.dumps(document).encode())
    async with scene(tmp_path / "other") as other, other.person("ada") as there:
        of_other = there.cookies[COOKIE]
    async with here.browser() as browser, here.person("vera") as viewer:
        await begun(browser, "github")
        good = viewer.cookies[COOKIE]
        flipped = good[:40] + ("A" if good[40] != "A" else "B") + good[41:]
        found = [
            (await here_get(here, value)).status_code
            for value in (
                own.decode(),
                of_other,
                flipped,
                # What is sealed for a login under way isn't a session.
                browser.cookies[BEGUN],
                good[:-3],
                "",
                "\x80",
                good,
            )
        ]
        swapped = {"cookie": f"{BEGUN}={good}"}
        back = await browser.get(
            "/login/github/callback?code=a&state=x", headers=swapped
        )

    assert found == [303] * 7 + [200]
    assert back.status_code == 401


async def test_no_name_that_looks_like_another_has_its_role(tmp_path: Path) -> None:
    roles = 'viewers = ["email:kim@example.org", "sub:AbC"]\noperators = ["group:ops"]'
    claims: tuple[dict[str, Any], ...] = (
        {"sub": "aBc"},
        {"groups": ["Ops"]},
        {"groups": "ops,other"},
        {"groups": {"ops": True}},
        {"groups": [["ops"]]},
        # A KELVIN SIGN, whose lower case is a k.
        {"email": "\u212aim@example.org", "email_verified": True},
        {"email": "kim@example.org", "email_verified": "true"},
        {"email": ["kim@example.org"], "email_verified": True},
        {"preferred_username": "sub:AbC"},
        {"email": "Kim@Example.org", "email_verified": True},
        {"sub": "AbC"},
        {"groups": "ops"},
    )
    found = []
    async with scene(tmp_path / "hub", oidc=roles) as here:
        for claim in claims:
            here.services.claims = claim
            async with here.browser() as browser:
                reply = await log_in(here.services, browser, way="oidc")
                found.append(reply.status_code)

    assert found == [403] * 9 + [200] * 3


async def test_a_person_with_long_names_in_many_groups_fits_a_cookie(
    tmp_path: Path,
) -> None:
    groups = [f"/acme/engineering/teams/{number:03d}/members" for number in range(200)]
    listed = json.dumps([f"group:{group}" for group in groups])
    roles = f'viewers = {listed}\noperators = ["group:ops"]'
    async with scene(tmp_path / "hub", oidc=roles) as here:
        here.services.claims = {
            "sub": "\N{GRINNING FACE}" * 255,
            "preferred_username": "\N{GRINNING FACE}" * 300,
            "groups": [*groups, "ops"],
        }
        async with here.person(way="oidc") as browser:
            page = await browser.get("/")
            size = len(browser.cookies[COOKIE])

    assert "(operator)" in page.text
    # RFC 6265, 6.1: with its name and its attributes.
    assert size < 4000


async def test_nobody_acts_without_being_on_the_audit_list(here: Scene) -> None:
    acts = []
    names = ("ops-1", "half \ud800 a character", "a\x00b\r\n\u202ec")
    for number, name in enumerate(names):
        await here.hub.submit({"id": f"job {number}?", "dag_name": "ci"})
        here.services.claims = {"groups": ["ops"], "preferred_username": name}
        async with here.person(way="oidc") as operator:
            form = {"form_token": form_token(await operator.get("/"))}
            job = {"id": f"job {number}?"}
            reply = await operator.post("/jobs/cancel", params=job, data=form)
            acts.append(reply.status_code)
    async with here.person("ada") as admin:
        audit = text(await admin.get("/audit"))

    assert acts == [303] * 3
    for number, shown in enumerate(("ops-1", "half ? a character", "a")):
        assert f"Cancel job job {number}?" in audit
        assert shown in audit
    assert audit.count("(oidc:s-1)") == 3


async def here_get(here: Scene, cookie: str) -> httpx.Response:
    async with here.browser() as thief:
        headers = {b"cookie": f"{COOKIE}={cookie}".encode("latin-1")}
        return await thief.get("/", headers=headers)


async def test_the_key_of_the_page_ends_sessions_and_logins_under_way(
    here: Scene,
) -> None:
    async with here.person("vera") as viewer, here.browser() as browser:
        back = here.services.authorize(await begun(browser, "github"), "olga")
        await to_thread.run_sync(here.hub.context.sessions.rotate_key)

        assert await is_out(viewer)
        assert (await browser.get(back)).status_code == 401


async def test_no_other_site_and_no_form_of_another_session_acts(here: Scene) -> None:
    await here.hub.submit({"id": "j", "dag_name": "ci"})
    async with here.person("olga") as operator:
        crossed = await operator.post(
            "/jobs/j/cancel",
            data={"form_token": "x"},
            headers={"sec-fetch-site": "cross-site"},
        )
        without = await operator.post("/jobs/j/cancel", data={"form_token": "x"})
        cookies = (await operator.get("/login/github")).headers["set-cookie"]

    assert (crossed.status_code, without.status_code) == (403, 403)
    assert "HttpOnly" in cookies
    assert "SameSite=lax" in cookies
    assert "Path=/login/" in cookies
