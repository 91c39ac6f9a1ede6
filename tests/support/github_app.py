"""A small GitHub for one App, over real sockets: what a set-up and a check of the App ask, and nothing else.

What it says can be changed; each request is kept. The App's JWT is verified as GitHub does (RS256, `iat`, `exp` at
most ten minutes, by this GitHub's own clock).
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
from attrs import define, field

from support.deliveries_api import Entry
from support.github import public_key
from support.github_events import pull_request
from support.servers import Reply, Request, http_server

APP_ID = 4711
CODE = "a180b1a3d263c81bc6441d7b990bae27d4c10679"
WEBHOOK_SECRET = "the-webhook-secret-of-the-app"
REPOSITORY = "octo/hello"
INSTALLATION = 7

PERMISSIONS = {
    "checks": "write",
    "contents": "read",
    "issues": "read",
    "metadata": "read",
    "pull_requests": "write",
}
EVENTS = [
    *("issue_comment", "pull_request", "pull_request_review"),
    *("pull_request_review_comment", "push"),
]


def delivery(number: int, code: int = 202, **fields: Any) -> dict[str, Any]:
    """Return an item of the list of deliveries."""
    return {
        "id": 3804004623172239366 + number,
        "guid": f"guid-{number}",
        "delivered_at": f"2026-11-25T10:00:{number:02}Z",
        "redelivery": False,
        "duration": 0.1,
        "status": "OK" if code < 400 else "Invalid HTTP Response",
        "status_code": code,
        "event": "push",
        "action": None,
        "installation_id": INSTALLATION,
        "repository_id": 1,
        **fields,
    }


@define
class GithubApp:
    """What this GitHub says."""

    key: str
    """The App's private key (PEM)."""
    url: str = ""
    skew_s: float = 0.0
    """How far this GitHub's clock is ahead (seconds)."""
    app: dict[str, Any] = field(factory=dict)
    hook: dict[str, Any] = field(factory=dict)
    installations: list[dict[str, Any]] = field(factory=list)
    repositories: dict[str, int] = field(factory=lambda: {REPOSITORY: INSTALLATION})
    """Repository -> the installation that covers it."""
    deliveries: list[dict[str, Any]] = field(factory=list)
    codes: set[str] = field(factory=lambda: {CODE})
    token: str = "ghp_" + "a" * 36
    manifest: dict[str, Any] = field(factory=dict)
    """What the App was registered from."""
    events: dict[int, dict[str, Any]] = field(factory=dict)
    """Delivery -> what it has beside its place in the list."""
    checks: dict[int, dict[str, Any]] = field(factory=dict)
    concluded: threading.Event = field(factory=threading.Event)
    """Set once a check has ended."""
    asked: threading.Event = field(factory=threading.Event)
    """Set once somebody wants to exchange a code."""
    gate: threading.Event | None = None
    """What the exchange waits for."""
    faults: dict[str, tuple[int, str]] = field(factory=dict)
    """Path -> status and text, in place of what it says."""
    requests: list[tuple[str, str, str]] = field(factory=list)
    """Method, path and Authorization of each request."""

    def __attrs_post_init__(self) -> None:
        self.app = {
            "id": APP_ID,
            "slug": "our-ci",
            "name": "our-ci",
            "html_url": "https://github.com/apps/our-ci",
            "owner": {"login": "octo", "type": "Organization"},
            "permissions": {**PERMISSIONS},
            "events": [*EVENTS],
        }
        self.hook = {
            "url": "https://hub.example/webhooks/github",
            "content_type": "json",
            "insecure_ssl": "0",
            "secret": "********",
        }
        self.installations = [self.installation()]
        self.deliveries = [delivery(2), delivery(1)]

    def installation(self, **fields: Any) -> dict[str, Any]:
        """Return an installation of the App."""
        return {
            "id": INSTALLATION,
            "account": {"login": "octo", "type": "Organization"},
            "html_url": "https://github.com/organizations/octo/settings/installations/7",
            "repository_selection": "selected",
            "permissions": {**PERMISSIONS},
            "events": [*EVENTS],
            "suspended_at": None,
            **fields,
        }

    def now(self) -> float:
        return time.time() + self.skew_s

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, Any]:
        """Return status and body."""
        self.requests.append((method, path, authorization))
        if path in self.faults:
            return self.faults[path]
        if method == "POST" and path.startswith("/app-manifests/"):
            return self._convert(path.split("/")[2], authorization)
        if path == "/rate_limit":
            good = authorization == f"Bearer {self.token}"
            return (
                (200, {"rate": {}}) if good else (401, {"message": "Bad credentials"})
            )
        refusal = self._refusal(authorization)
        if refusal:
            return 401, {"message": refusal}
        owner_and_name = path.removeprefix("/repos/").removesuffix("/installation")
        if owner_and_name in self.repositories:
            return 200, self.installation(id=self.repositories[owner_and_name])
        document = {
            "/app": self.app,
            "/app/hook/config": self.hook,
            "/app/installations": self.installations,
            "/app/hook/deliveries": self.deliveries,
        }.get(path)
        return (
            (200, document) if document is not None else (404, {"message": "Not Found"})
        )

    def open_pull_request(self) -> None:
        """Deliver a pull request of the repository to whoever polls."""
        payload = json.dumps({**pull_request(), "installation": {"id": INSTALLATION}})
        entry = Entry(
            id=3804004623172239400,
            guid="0b989ba4-242f-11e5-81e1-c7b6966d2516",
            delivered_at=self.now(),
            event="pull_request",
            action="opened",
            payload=json.loads(payload.replace("Codertocat/Hello-World", REPOSITORY)),
        )
        self.events[entry.id] = entry.detail()
        self.deliveries = [entry.item(), *self.deliveries]

    def about_runs(self, request: Request) -> Reply | None:
        """Return the answer to a call about an event, a token or a check; None for another call."""
        parts = request.path.partition("?")[0].strip("/").split("/")
        body = json.loads(request.body) if request.body else {}
        match request.method, parts:
            case "GET", ["app", "hook", "deliveries", number]:
                return _json(200, self.events[int(number)])
            case "POST", ["app", "installations", _, "access_tokens"]:
                ends = "2099-07-11T22:14:10Z"
                said = {"token": self.token, "permissions": self.app["permissions"]}
                return _json(201, {**said, "expires_at": ends})
            case "POST", ["repos", _, _, "check-runs"]:
                new = len(self.checks) + 1
                self.checks[new] = {"id": new, "app": {"id": APP_ID}, **body}
                return self._checked(new)
            case "PATCH", ["repos", _, _, "check-runs", number]:
                self.checks[int(number)] |= body
                return self._checked(int(number))
            case "GET", ["repos", _, _, "commits", _, "check-runs"]:
                runs = [*self.checks.values()]
                return _json(200, {"total_count": len(runs), "check_runs": runs})
            case _:
                return None

    def _checked(self, number: int) -> Reply:
        if self.checks[number]["status"] == "completed":
            self.concluded.set()
        return _json(201, self.checks[number])

    def register(self, target: str, body: bytes) -> str:
        """Make the App of a form, and return the address that the browser is sent to."""
        parts = urlsplit(target)
        self.requests.append(("POST", parts.path, ""))
        self.manifest = json.loads(parse_qs(body.decode())["manifest"][0])
        self.app |= {
            "name": self.manifest["name"],
            "permissions": self.manifest["default_permissions"],
            "events": self.manifest["default_events"],
        }
        state = parse_qs(parts.query).get("state", [""])[0]
        query = urlencode({"code": min(self.codes), "state": state})
        return f"{self.manifest['redirect_url']}?{query}"

    def _convert(self, code: str, authorization: str) -> tuple[int, Any]:
        if authorization:
            return 401, {"message": "Bad credentials"}
        self.asked.set()
        if self.gate is not None:
            self.gate.wait(60)
        if code not in self.codes:
            return 404, {"message": "Not Found"}
        self.codes.discard(code)
        secrets = {
            "pem": self.key,
            "webhook_secret": WEBHOOK_SECRET,
            "client_id": "Iv1.8a61f9b3a7aba766",
            "client_secret": "client-secret-of-the-app",
        }
        return 201, {**self.app, **secrets}

    def _refusal(self, authorization: str) -> str:
        token = authorization.removeprefix("Bearer ")
        try:
            # Its times are judged below, by this GitHub's clock.
            claims = jwt.decode(
                token,
                public_key(self.key),
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return "A JSON web token could not be decoded"
        if claims["iss"] != str(self.app["id"]):
            return "Integration not found"
        if claims["iat"] > self.now():
            return "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
        if not self.now() < claims["exp"] <= self.now() + 600:
            return "'Expiration time' claim ('exp') is too far in the future"
        return ""


def _json(status: int, document: object) -> Reply:
    headers = {"Content-Type": "application/json", "Date": formatdate(usegmt=True)}
    return Reply(status, headers, json.dumps(document).encode())


@contextmanager
def github_app(key: str) -> Iterator[GithubApp]:
    """Run a GitHub for the length of a block."""
    github = GithubApp(key=key)

    def answer(request: Request) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/api/v3")
        if request.method == "POST" and path.endswith("/settings/apps/new"):
            location = github.register(request.path, request.body)
            return Reply(302, {"Location": location})
        if reply := github.about_runs(request):
            return reply
        authorization = request.headers.get("authorization", "")
        status, body = github.answer(request.method, path, authorization)
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {
            "Date": formatdate(github.now(), usegmt=True),
            "Content-Type": "application/json; charset=utf-8",
        }
        return Reply(status, headers, text.encode())

    with http_server(answer) as port:
        github.url = f"http://127.0.0.1:{port}"
        yield github


def press(page_url: str) -> httpx.Response:
    """Do as a browser at the page of a set-up, and its person, who makes the App; return where they end."""
    page = httpx.get(page_url, timeout=30, trust_env=False)
    [action] = re.findall('action="([^"]*)"', page.text)
    [manifest] = re.findall('name="manifest" value="([^"]*)"', page.text)
    return httpx.post(
        unescape(action),
        data={"manifest": unescape(manifest)},
        follow_redirects=True,
        timeout=30,
        trust_env=False,
    )
