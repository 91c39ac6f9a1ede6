"""Services by which people log in, over a real socket: GitHub's OAuth with its API, and an OpenID provider.

Both do what they should: a code counts once, for the address, the client and the verifier (RFC 7636) that belong to it. A test
can change what they say.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import jwt
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric import rsa

from support.servers import Reply, Request, http_server

CLIENT_ID = "Iv1.hub"
CLIENT_SECRET = "the-client-secret-of-the-hub"
KID = "key-1"


@cache
def provider_key() -> rsa.RSAPrivateKey:
    """Return the key of every provider of this process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def signed(
    claims: Mapping[str, Any], key: Any = None, alg: str = "RS256", **header: Any
) -> str:
    """Return an id token."""
    key = provider_key() if key is None else key
    return jwt.encode(dict(claims), key, algorithm=alg, headers={"kid": KID, **header})


@define
class Account:
    """Account at GitHub, with the repositories that it may read."""

    id: int
    login: str
    reads: dict[str, int] = field(factory=dict)
    is_suspended: bool = False


@define
class Services:
    """What the services say; `begun` has the parameters of the newest login that a browser has brought."""

    url: str = ""
    accounts: dict[str, Account] = field(factory=dict)
    """Accounts at GitHub, by login."""
    tokens: dict[str, str] = field(factory=dict)
    """Tokens that GitHub accepts -> login."""
    codes: dict[str, dict[str, str]] = field(factory=dict)
    away: bool = False
    blocked: bool = False
    """True if a proxy on the way answers with a page of its own."""
    claims: dict[str, Any] = field(factory=dict)
    """Claims of the person at the OpenID provider."""
    id_token: Callable[[dict[str, Any]], str] = signed
    metadata: dict[str, Any] = field(factory=dict)
    """Further metadata of the OpenID provider."""
    requests: list[str] = field(factory=list)
    """Method and path of each request."""

    @property
    def issuer(self) -> str:
        return f"{self.url}/oidc"

    def authorize(self, address: str, who: str = "") -> str:
        """Return the address to which the browser is sent back, as after the person's consent."""
        begun = dict(parse_qsl(urlsplit(address).query))
        assert begun["client_id"] == CLIENT_ID
        assert begun["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = {**begun, "who": who}
        return f"{begun['redirect_uri']}?code={code}&state={begun['state']}"

    def answer(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.method} {path}")
        if self.away:
            return Reply(502, {"Content-Type": "text/html"}, b"<h1>Bad gateway</h1>")
        if self.blocked:
            return Reply(403, {"Content-Type": "text/html"}, b"<h1>Blocked</h1>")
        form = {k: v[-1] for k, v in parse_qs(request.body.decode()).items()}
        if path == "/login/oauth/access_token":
            return _json(self._github_token(json.loads(request.body)))
        if path.startswith("/oidc"):
            return self._oidc(path.removeprefix("/oidc"), form, request.headers)
        return self._api(path, request.headers.get("authorization", ""))

    def _api(self, path: str, authorization: str) -> Reply:
        login = self.tokens.get(authorization.removeprefix("Bearer "))
        if login is None:
            return _json({"message": "Bad credentials"}, 401)
        account = self.accounts[login]
        if account.is_suspended:
            return _json({"message": "Sorry. Your account was suspended."}, 403)
        if path == "/user":
            return _json({"id": account.id, "login": account.login})
        number = account.reads.get(path.removeprefix("/repos/"))
        if number is None:
            return _json({"message": "Not Found"}, 404)
        return _json({"id": number, "full_name": path.removeprefix("/repos/")})

    def _redeem(self, form: Mapping[str, str]) -> dict[str, str] | None:
        begun = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            begun is None
            or begun["code_challenge"] != challenge
            or begun["redirect_uri"] != form.get("redirect_uri")
        ):
            return None
        return begun

    def _github_token(self, form: Mapping[str, str]) -> dict[str, Any]:
        if (form["client_id"], form["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
            return {"error": "incorrect_client_credentials"}
        begun = self._redeem(form)
        if begun is None:
            return {"error": "bad_verification_code"}
        token = f"ghu_{len(self.tokens)}"
        self.tokens[token] = begun["who"]
        return {"access_token": token, "expires_in": 28800, "token_type": "bearer"}

    def _oidc(
        self, path: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> Reply:
        if path == "/.well-known/openid-configuration":
            return _json(
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "jwks_uri": f"{self.issuer}/keys",
                    **self.metadata,
                }
            )
        if path == "/keys":
            key = jwt.algorithms.RSAAlgorithm.to_jwk(
                provider_key().public_key(), as_dict=True
            )
            return _json({"keys": [{**key, "kid": KID, "use": "sig"}]})
        assert path == "/token"
        pair = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if headers.get("authorization") != f"Basic {pair}":
            return _json({"error": "invalid_client"}, 401)
        begun = self._redeem(form)
        if begun is None:
            return _json({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "s-1",
            "iat": now,
            "exp": now + 86_400,
            "nonce": begun["nonce"],
            **self.claims,
        }
        answer = {"access_token": "a", "id_token": self.id_token(claims)}
        return _json(answer)


def _json(document: Any, status: int = 200) -> Reply:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status, kind, json.dumps(document).encode())


@contextmanager
def services() -> Iterator[Services]:
    """Run both services for the length of a block."""
    found = Services()
    with http_server(found.answer) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


def tables(
    services: Services,
    public_url: str,
    *,
    github: str = "",
    oidc: str = "",
    top: str = "",
) -> str:
    """Return the tables of a hub's configuration; the texts are further keys of their tables."""
    return f"""
[github]
token_file = "github-token"
api_url = "{services.url}"
webhook_secret_files = ["github-token"]
public_url = "{public_url}"
[login]
{top}
[login.github]
client_id = "{CLIENT_ID}"
client_secret_file = "client-secret"
{github}
[login.oidc]
name = "Keycloak"
issuer = "{services.issuer}"
client_id = "{CLIENT_ID}"
client_secret_file = "client-secret"
{oidc}
"""


async def begun(browser: httpx.AsyncClient, way: str, next_path: str = "/") -> str:
    """Begin a login, and return the address at the service to which the browser is sent."""
    reply = await browser.get(f"/login/{way}", params={"next": next_path})
    assert reply.status_code == 303, reply.text
    return reply.headers["location"]


async def log_in(
    services: Services,
    browser: httpx.AsyncClient,
    who: str = "",
    *,
    way: str = "github",
    next_path: str = "/",
) -> httpx.Response:
    """Log in as somebody, and return the answer to the browser that has come back."""
    back = services.authorize(await begun(browser, way, next_path), who)
    return await browser.get(back)
