"""A GitHub that can fail: it keeps check runs and statuses, judges every request, and breaks answers on demand.

What a request must look like is GitHub's own word: its OpenAPI descriptions, and the limits that its docs and its
users report. For what nobody else's mock does: permissions, limits, pages, answers that get lost after the write.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import anyio
import httpx
import jwt
from attrs import define, field, frozen
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from support.clock import LoopTime, loop, within
from support.github import (
    APP_ID,
    DESCRIPTIONS,
    INSTALLATION,
    OPENAPI,
    app_key,
    public_key,
    request_violations,
)
from support.hub import NO_TLS
from support.servers import asgi_server

SHA = "d6fde92930d4715a2b49857d24b940956b26d2d3"


@frozen(kw_only=True)
class Request:
    """A request: the decoded parts of its path below the base, its query, and its JSON body."""

    method: str
    parts: tuple[str, ...]
    raw: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any

    @property
    def name(self) -> str:
        """What is asked, such as `POST check-runs`; ids are left out."""
        parts = [part for part in self.parts[3:] if not re.fullmatch(r"\d+", part)]
        if self.parts[0] == "app":
            parts = [part for part in self.parts if not part.isdigit()]
        return f"{self.method} {'/'.join(parts)}".replace(f"/{SHA}", "")

    @property
    def installation(self) -> str:
        return self.headers.get("authorization", "").rpartition("-")[2]


@frozen(kw_only=True)
class Fault:
    """How an answer is broken; `after` the write has been made, or in its place."""

    status: int = 0
    """0 for no answer at all: `hang`, or the connection is closed."""
    message: str = "broken on purpose"
    headers: Mapping[str, str] = field(factory=dict)
    after: bool = False
    hang: bool = False
    cut: bool = False
    """The body ends too soon."""


@define(eq=False)
class Trap:
    """A fault that is waiting for its requests: each key's first `times`."""

    fault: Fault
    matches: Callable[[Request], bool]
    key: Callable[[Request], object]
    times: float
    sprung: Counter[object] = field(factory=Counter)


Answer = tuple[int, Any, dict[str, str]]


@define(eq=False)
class GithubApi:
    """GitHub as it is now."""

    prefix: str = ""
    """Below which path the API is, such as /api/v3."""
    judges: list[str] = field(factory=list)
    """Addresses of Prisms that are asked about each request."""
    http: httpx.AsyncClient = field(factory=lambda: httpx.AsyncClient(verify=NO_TLS))
    key: str = field(factory=app_key)
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    certificate: str = ""
    """File with a certificate and its key (PEM); empty for plain HTTP."""
    page_size: int = 100
    show_after: int = 0
    """How many times a new check run is left out of lists (count)."""
    runs: dict[int, dict[str, Any]] = field(factory=dict)
    statuses: list[dict[str, Any]] = field(factory=list)
    requests: list[Request] = field(factory=list)
    violations: list[object] = field(factory=list)
    """What was wrong with requests that should have been right."""
    tokens: set[str] = field(factory=set)
    permissions: dict[str, str] = field(
        factory=lambda: {"checks": "write", "metadata": "read"}
    )
    """What every installation's token says that it may do; empty = it doesn't say."""
    token_ends: str = "2099-07-11T22:14:10Z"
    more: Callable[[Request], "Answer | None"] = lambda _: None
    """Further answers, for calls that aren't about checks."""
    everything: Callable[[Request], "Answer"] | None = None
    """Answers in place of all of its own."""
    in_progress: int = 0
    """How many requests are being answered; none of those that never will be (count)."""
    _traps: list[Trap] = field(factory=list)
    _changed: anyio.Event = field(factory=anyio.Event)
    _next_id: int = 3_000_000_000
    """Above 2^31, as GitHub's are."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    def trap(
        self,
        name: str,
        fault: Fault,
        *,
        times: float = 1,
        key: Callable[[Request], object] = lambda _: "",
        when: Callable[[Request], bool] = lambda _: True,
    ) -> Trap:
        """Break the next answers to some requests; `name` as `Request.name` has it, `times` for each key."""
        trap = Trap(
            fault, lambda request: request.name == name and when(request), key, times
        )
        self._traps.append(trap)
        return trap

    def count(self, name: str) -> int:
        return sum(request.name == name for request in self.requests)

    def newest(self, external_id: str) -> dict[str, Any]:
        """Return the newest check run of a job and round."""
        return self.of(external_id)[-1]

    def of(self, external_id: str) -> list[dict[str, Any]]:
        return [run for run in self.runs.values() if run["external_id"] == external_id]

    async def until(self, reached: Callable[[], bool], within_s: float = 60) -> None:
        """Wait for something that requests bring about."""
        try:
            with within(within_s):
                while not reached():
                    await self._changed.wait()
        except TimeoutError:
            names = [request.name for request in self.requests][-40:]
            raise AssertionError(names) from None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.in_progress += 1
        try:
            await self._take(scope, receive, send)
        finally:
            self.in_progress -= 1

    async def _take(self, scope: Any, receive: Any, send: Any) -> None:
        request = await _read(scope, receive, self.prefix)
        if request.raw == "app/hook/deliveries" and self.more(request) is None:
            # The hub looks for what it has missed, which is nothing to these tests (support/deliveries_api.py).
            await _send(send, (200, [], {}))
            return
        self.requests.append(request)
        try:
            await self._answer(request, receive, send)
        finally:
            self._changed.set()
            self._changed = anyio.Event()

    async def _answer(self, request: Request, receive: Any, send: Any) -> None:
        fault = self._sprung(request)
        if fault is None or fault.after:
            if self.everything is None:
                await self._judge(request)
                answer = self._do(request)
            else:
                answer = await anyio.to_thread.run_sync(self.everything, request)
        else:
            answer = _refusal(fault)
        if fault is None:
            await _send(send, answer)
            return
        self._changed.set()
        self._changed = anyio.Event()
        if fault.hang:
            self.in_progress -= 1
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                self.in_progress += 1
            return
        if fault.after and not fault.cut:
            answer = _refusal(fault)
        await _send(send, answer, cut=fault.cut)

    def _sprung(self, request: Request) -> Fault | None:
        for trap in self._traps:
            key = trap.key(request)
            if trap.matches(request) and trap.sprung[key] < trap.times:
                trap.sprung[key] += 1
                return trap.fault
        return None

    async def _judge(self, request: Request) -> None:
        for description in DESCRIPTIONS:
            self.violations += violations(description, request)
        for name, value in {
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        }.items():
            if request.headers.get(name) != value:
                self.violations.append((name, request.headers.get(name)))
        if not request.headers["user-agent"].startswith("dispatchd/"):
            self.violations.append(request.headers["user-agent"])
        for judge in self.judges:
            reply = await self.http.request(
                request.method,
                f"{judge}/{request.raw}",
                params=dict(request.query),
                json=request.body,
                # Its descriptions name no other kind, though GitHub's docs recommend one.
                headers={"accept": "application/json"},
            )
            self.violations += request_violations(reply.headers)
            if reply.status_code >= 400:
                self.violations.append((request.name, reply.status_code, reply.text))

    def _do(self, request: Request) -> Answer:
        if request.parts[0] == "app":
            return self._as_app(request)
        if (
            request.headers.get("authorization", "").partition(" ")[2]
            not in self.tokens
        ):
            return 401, {"message": "Bad credentials"}, {}
        return self.more(request) or self._about_checks(request)

    def _about_checks(self, request: Request) -> Answer:
        match request.method, request.parts[3:]:
            case "POST", ("check-runs",):
                return self._create(request)
            case "PATCH", ("check-runs", number):
                return self._update(request, int(number))
            case "GET", ("check-runs", number):
                run = self.runs.get(int(number))
                return (200, _shown(run), {}) if run else _NOT_FOUND
            case "GET", ("commits", sha, "check-runs"):
                return self._list(request, sha)
            case "POST", ("statuses", sha):
                return self._status(request, sha)
            case _:
                return _NOT_FOUND

    def _as_app(self, request: Request) -> Answer:
        given = request.headers.get("authorization", "").partition(" ")[2]
        try:
            claims = jwt.decode(
                given,
                public_key(self.key),
                algorithms=["RS256"],
                # Below, by the time of the test's loop.
                options={"verify_iat": False, "verify_exp": False},
            )
        except jwt.InvalidTokenError as error:
            return (
                401,
                {"message": f"A JSON web token could not be decoded: {error}"},
                {},
            )
        if not claims["iat"] <= _now() < claims["exp"]:
            return 401, {"message": "'Expiration time' claim ('exp') is off"}, {}
        if claims["iss"] != str(APP_ID) or claims["exp"] - claims["iat"] > 660:
            self.violations.append(claims)
        if request.parts[1:2] == ("installations",):
            token = f"ghs_{len(self.tokens)}{'x' * 40}-{request.parts[2]}"
            self.tokens.add(token)
            answer = {"token": token, "expires_at": self.token_ends}
            said = {"permissions": self.permissions} if self.permissions else {}
            return 201, {**answer, **said}, {}
        return self.more(request) or _NOT_FOUND

    def _create(self, request: Request) -> Answer:
        if wrong := list(_limits(request.body)):
            self.violations += wrong
            return 422, {"message": "Validation Failed", "errors": wrong}, {}
        self._next_id += 1
        run = {
            "id": self._next_id,
            "conclusion": None,
            **request.body,
            "repository": "/".join(request.parts[1:3]),
            "writes": [request.body],
            "annotations": request.body.get("output", {}).get("annotations", []),
            "hidden": self.show_after,
        }
        self.runs[run["id"]] = run
        return 201, _shown(run), {}

    def _update(self, request: Request, number: int) -> Answer:
        run = self.runs.get(number)
        if run is None:
            return _NOT_FOUND
        if wrong := list(_limits(request.body)):
            self.violations += wrong
            return 422, {"message": "Validation Failed", "errors": wrong}, {}
        if run["status"] == "completed" and request.body.get("status", "completed") != (
            "completed"
        ):
            self.violations.append("a concluded check run is opened again")
        added = request.body.get("output", {}).get("annotations", [])
        run["annotations"] = [*run["annotations"], *added]
        run.update(request.body)
        run["writes"].append(request.body)
        return 200, _shown(run), {}

    def _list(self, request: Request, sha: str) -> Answer:
        runs = []
        for run in self.runs.values():
            if run["head_sha"] != sha or run["name"] != request.query.get("check_name"):
                continue
            if run["hidden"] > 0:
                run["hidden"] -= 1
                continue
            runs.append(_shown(run))
        page, size = int(request.query.get("page", "1")), self.page_size
        shown = runs[(page - 1) * size : page * size]
        headers = {}
        if page * size < len(runs):
            query = "&".join(
                f"{name}={value}"
                for name, value in {**request.query, "page": str(page + 1)}.items()
            )
            headers["link"] = (
                f'<{self.url}/{request.raw}?{query}>; rel="next", <{self.url}>; rel="last"'
            )
        return 200, {"total_count": len(runs), "check_runs": shown}, headers

    def _status(self, request: Request, sha: str) -> Answer:
        if len(request.body.get("description", "")) > 140:
            self.violations.append(request.body)
            return 422, {"message": "description is too long"}, {}
        repository = "/".join(request.parts[1:3])
        self.statuses.append({**request.body, "sha": sha, "repository": repository})
        return 201, {"id": len(self.statuses), **request.body}, {}


def _now() -> float:
    """Return the time of the hubs of this test (seconds since the epoch)."""
    return LoopTime(loop()).wall()


_NOT_FOUND: Answer = (404, {"message": "Not Found"}, {})


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    """Return a check run as GitHub shows it."""
    output = {
        **run.get("output", {}),
        "annotations_count": len(run["annotations"]),
    }
    output.pop("annotations", None)
    inner = ("writes", "annotations", "hidden", "repository")
    return {
        **{name: value for name, value in run.items() if name not in inner},
        "output": output,
        "app": {"id": APP_ID},
    }


def _limits(body: dict[str, Any]) -> Iterator[str]:
    """Yield what GitHub refuses though its OpenAPI description lets it pass."""
    output = body.get("output", {})
    for name in ("summary", "text"):
        if len(output.get(name, "").encode()) > 65_535:
            yield f"{name} exceeds a maximum bytesize of 65535"
    if len(output.get("title", "")) > 255:
        yield "title is too long"
    if body.get("status") == "completed" and "conclusion" not in body:
        yield "conclusion is missing"
    if any(len(action["description"]) > 40 for action in body.get("actions", [])):
        yield "description of an action is too long"
    if any(
        annotation["end_line"] < annotation["start_line"] or not annotation["message"]
        for annotation in output.get("annotations", [])
    ):
        yield "an annotation ends before it begins"


def _refusal(fault: Fault) -> Answer:
    return fault.status, {"message": fault.message}, dict(fault.headers)


async def _read(scope: Any, receive: Any, prefix: str) -> Request:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    raw = scope["raw_path"].decode().removeprefix(prefix).strip("/")
    return Request(
        method=scope["method"],
        parts=tuple(unquote(part) for part in raw.split("/")),
        raw=raw,
        query=dict(parse_qsl(scope["query_string"].decode())),
        headers={name.decode(): value.decode() for name, value in scope["headers"]},
        body=json.loads(body) if body else None,
    )


async def _send(send: Any, answer: Answer, *, cut: bool = False) -> None:
    status, document, more = answer
    body = json.dumps(document).encode()
    length = len(body) + (100 if cut else 0)
    headers = {
        "content-type": "application/json",
        "content-length": str(length),
        "date": formatdate(_now(), usegmt=True),
        **more,
    }
    if not status:
        # What has been promised doesn't come: the connection is closed.
        status, headers["content-length"], body = 200, "100", b""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


@cache
def _description(name: str) -> tuple[dict[str, Any], Registry[Any]]:
    document = json.loads((OPENAPI / f"{name}.subset.json").read_text())
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    return document, Registry().with_resource("urn:github", resource)


@cache
def _judge(description: str, method: str, path: str) -> Draft202012Validator:
    """Return what judges the bodies of a call that a description has."""
    _, registry = _description(description)
    pointer = path.replace("~", "~0").replace("/", "~1").replace("{", "%7B")
    pointer = pointer.replace("}", "%7D")
    where = f"{method}/requestBody/content/application~1json/schema"
    schema = {"$ref": f"urn:github#/paths/{pointer}/{where}"}
    return Draft202012Validator(schema, registry=registry)


def violations(description: str, request: Request) -> list[str]:
    """Return what is wrong with a request by one of GitHub's OpenAPI descriptions."""
    document, _ = _description(description)
    for path, operations in document["paths"].items():
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", path).strip("/")
        if request.method.lower() in operations and re.fullmatch(pattern, request.raw):
            break
    else:
        return [f"{request.method} {request.raw} is not described"]
    if request.body is None:
        return []
    judge = _judge(description, request.method.lower(), path)
    return [
        f"{description} {request.name} {error.json_path}: {error.message}"
        for error in judge.iter_errors(request.body)
    ]


@asynccontextmanager
async def github_api(**options: Any) -> AsyncIterator[GithubApi]:
    """Run a GitHub for the length of a block."""
    api = GithubApi(**options)
    async with asgi_server(api, api.certificate, dated=False) as api.port:
        try:
            yield api
        finally:
            await api.http.aclose()


__all__ = [
    "INSTALLATION",
    "SHA",
    "Fault",
    "GithubApi",
    "Request",
    "github_api",
]
