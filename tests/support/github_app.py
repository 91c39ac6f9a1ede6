"""A small GitHub for one App, over real sockets: what a set-up and a check of the App ask, and nothing else.

What it says can be changed; each request is kept. The App's JWT is verified as GitHub does (RS256, `iat`, `exp` at
most ten minutes, by this GitHub's own clock).
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import jwt
from attrs import define, field

from support.github import public_key
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

    def _convert(self, code: str, authorization: str) -> tuple[int, Any]:
        if authorization:
            return 401, {"message": "Bad credentials"}
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


@contextmanager
def github_app(key: str) -> Iterator[GithubApp]:
    """Run a GitHub for the length of a block."""
    github = GithubApp(key=key)

    def answer(request: Request) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/api/v3")
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
