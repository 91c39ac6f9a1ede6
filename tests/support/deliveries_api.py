"""GitHub's list of an App's webhook deliveries, as a real HTTP server that does what the real one is known to do.

Newest first; opaque cursors that lead only to what is older; entries that turn up late; entries that are listed and
not there yet; ids of 12 and of 19 digits side by side; redeliveries under a new id; a retention; limits; JWTs of
the App and nothing else. What it answers is checked against GitHub's own OpenAPI description.
"""

import base64
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import jwt
from attrs import define, evolve, field
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from support.clock import LoopTime, loop, within
from support.github import OPENAPI, app_key, public_key
from support.github_events import APP
from support.servers import asgi_server
from support.until import in_time

DAY_S = 86_400.0
OLD_IDS, NEW_IDS = 199287304442, 3804004623172239366
"""GitHub's ids jumped from 12 digits to 19 in February 2026, and aren't comparable."""


@define(kw_only=True)
class Entry:
    """A try to deliver an event."""

    id: int
    guid: str
    delivered_at: float
    event: str = "push"
    payload: Any = None
    action: str | None = None
    redelivery: bool = False
    status_code: int = 0
    installation: int = 7
    missing: int = 0
    """How often it isn't there yet when it is asked for (count)."""
    broken: int = 0
    """How often asking for it ends in a server's error (count)."""
    as_text: bool = False
    """Whether the payload comes as a JSON string."""
    broken_by: int = 502
    """The status of an answer that is broken."""
    headers: dict[str, str] = field(factory=dict)
    number: int = 0
    """How many were made before it (count)."""

    def item(self) -> dict[str, Any]:
        at = datetime.fromtimestamp(self.delivered_at, UTC)
        return {
            "id": self.id,
            "guid": self.guid,
            "delivered_at": at.isoformat(timespec="milliseconds")[:-6] + "Z",
            "redelivery": self.redelivery,
            "duration": 0.27,
            "status": "OK" if 200 <= self.status_code < 300 else "failed to connect",
            "status_code": self.status_code,
            "event": self.event,
            "action": self.action,
            "installation_id": self.installation,
            "repository_id": 186853002,
            "throttled_at": None,
        }

    def detail(self) -> dict[str, Any]:
        headers = {
            "Accept": "*/*",
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/044aadd",
            "X-GitHub-Delivery": self.guid,
            "X-GitHub-Event": self.event,
            "X-GitHub-Hook-ID": "1",
            "X-GitHub-Hook-Installation-Target-ID": str(APP),
            "X-GitHub-Hook-Installation-Target-Type": "integration",
            "X-Hub-Signature-256": "sha256=" + "0" * 64,
            **self.headers,
        }
        payload = json.dumps(self.payload) if self.as_text else self.payload
        return {
            **self.item(),
            "url": "https://hub.invalid/webhooks/github",
            "request": {"headers": headers, "payload": payload},
            "response": {"headers": None, "payload": None},
        }


@define(kw_only=True)
class Refusal:
    """An answer that is given in place of the right one."""

    status: int
    headers: dict[str, str] = field(factory=dict)
    message: str = "API rate limit exceeded"


@define
class DeliveriesApi:
    """The API of one App, and what it was asked."""

    key: str = field(factory=app_key)
    """The App's private key (PEM)."""
    ahead_s: float = 0.0
    """How far its clock is ahead (seconds)."""
    retention_s: float = 3 * DAY_S
    per_page: int = 100
    """The most that a page has."""
    entries: list[Entry] = field(factory=list)
    refusals: deque[Refusal] = field(factory=deque)
    """What the next calls get."""
    away: Refusal | None = None
    """What every call gets for as long as it is set."""
    no_cursors: int = 0
    """How many cursors aren't taken."""
    gates: dict[str, anyio.Event] = field(factory=dict)
    """GUID -> what asking for it waits for."""
    gate: anyio.Event | None = None
    """What the list waits for."""
    hook: Callable[[Entry], Awaitable[int]] | None = None
    """Delivers a redelivery to the hub, and returns its answer's status."""
    calls: list[str] = field(factory=list)
    """Method and path with its query, in the order of their coming."""
    fetched: Counter[str] = field(factory=Counter)
    """How often each event was handed out (GUID -> count)."""
    redelivered: list[int] = field(factory=list)
    complaints: list[str] = field(factory=list)
    port: int = 0
    _in_progress: int = 0
    """How many calls are being answered (count)."""
    _ids: int = 0
    _called: anyio.Event = field(factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def now(self) -> float:
        return LoopTime(loop()).wall() + self.ahead_s

    def add(
        self,
        event: str = "push",
        payload: Any = None,
        *,
        ago_s: float = 0,
        **fields: Any,
    ) -> Entry:
        """Add an event that was delivered some seconds ago; every other id is one of the old kind."""
        self._ids += 1
        number = (NEW_IDS if self._ids % 2 else OLD_IDS) + self._ids * 37
        action = payload.get("action") if isinstance(payload, dict) else None
        made = {
            "id": number,
            "guid": str(uuid4()),
            "delivered_at": self.now() - ago_s,
            "action": action,
            "number": self._ids,
            **fields,
        }
        entry = Entry(event=event, payload=payload, **made)
        self.entries.append(entry)
        return entry

    def again(self, entry: Entry, *, ago_s: float = 0, **fields: Any) -> Entry:
        """Add another try of an event."""
        self._ids += 1
        made = {
            "id": OLD_IDS + self._ids * 37,
            "redelivery": True,
            "number": self._ids,
            "delivered_at": self.now() - ago_s,
            **fields,
        }
        entry = evolve(entry, **made)
        self.entries.append(entry)
        return entry

    def available(self) -> list[Entry]:
        """Return what is still there, newest first."""
        oldest = self.now() - self.retention_s
        entries = [entry for entry in self.entries if entry.delivered_at >= oldest]
        return sorted(entries, key=_place)

    async def until(self, holds: Callable[[], bool], within_s: float = 60) -> None:
        """Return once something holds; it is looked at before and after each call."""
        with within(within_s):
            while not holds():
                await self._called.wait()

    async def in_time(self, holds: Callable[[], bool]) -> None:
        """Return once something holds that comes with time, which moves on meanwhile."""
        await in_time(holds, is_idle=lambda: not self._in_progress)

    async def sweeps(self, count: int = 2) -> None:
        """Return once the hub has begun some more sweeps; all before the last of them have ended by then."""
        target = (
            self.count("GET /app/hook/deliveries?per_page=100", exactly=True) + count
        )
        await self.in_time(
            lambda: (
                self.count("GET /app/hook/deliveries?per_page=100", exactly=True)
                >= target
            )
        )

    def count(self, call: str, *, exactly: bool = False) -> int:
        return sum(
            recorded == call if exactly else recorded.startswith(call)
            for recorded in self.calls
        )

    # What it answers.

    async def answer(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        if not request.url.path.startswith("/app/hook/deliveries"):
            # The hub's checks and tokens are none of this.
            return self._json({"message": "Not Found"}, 404)
        self.calls.append(f"{request.method} {request.url.path}{query}")
        self._tell()
        self._in_progress += 1
        try:
            return await self._answer(request)
        finally:
            self._in_progress -= 1
            self._tell()

    def _tell(self) -> None:
        called, self._called = self._called, anyio.Event()
        called.set()

    async def _answer(self, request: Request) -> Response:
        refusal = self.away or (self.refusals.popleft() if self.refusals else None)
        if refusal is not None:
            return self._json(
                {"message": refusal.message}, refusal.status, refusal.headers
            )
        wrong = self._wrong(request)
        if wrong:
            return self._json({"message": wrong}, 401)
        path = request.url.path
        if path == "/app/hook/deliveries" and request.method == "GET":
            if self.gate is not None:
                await self.gate.wait()
            return self._list(request)
        by_id = {str(listed.id): listed for listed in self.available()}
        parts = path.removeprefix("/app/hook/deliveries/").split("/")
        entry = by_id.get(parts[0])
        if entry is None:
            return self._json({"message": "Not Found"}, 404)
        if request.method == "POST" and parts[1:] == ["attempts"]:
            return await self._redeliver(entry)
        return await self._detail(entry)

    def _wrong(self, request: Request) -> str:
        """Return why a request isn't taken (GitHub docs, Generating a JWT), or an empty string."""
        for name, value in {
            "x-github-api-version": "2022-11-28",
            "accept": "application/vnd.github+json",
        }.items():
            if request.headers.get(name) != value:
                self.complaints.append(f"{name} is {request.headers.get(name)}")
        if not request.headers.get("user-agent", "").startswith("dispatchd/"):
            self.complaints.append("no user agent")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(
                token if kind == "Bearer" else "",
                public_key(self.key),
                algorithms=["RS256"],
                # By this server's own clock, below.
                options={"verify_iat": False, "verify_exp": False},
            )
        except jwt.PyJWTError as error:
            return f"A JSON web token could not be decoded ({error})"
        if claims["iss"] != str(APP):
            return "'Issuer' claim ('iss') must be an Integer"
        if claims["iat"] > self.now():
            return "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
        if not self.now() < claims["exp"] <= self.now() + 600:
            return "'Expiration time' claim ('exp') is too far in the future"
        return ""

    def _list(self, request: Request) -> Response:
        size = min(int(request.query_params.get("per_page", "30")), 100, self.per_page)
        cursor = request.query_params.get("cursor", "")
        entries = self.available()
        if cursor:
            if self.no_cursors:
                self.no_cursors -= 1
                return self._json({"message": "Invalid cursor"}, 422)
            last = tuple(json.loads(base64.urlsafe_b64decode(cursor)))
            entries = [entry for entry in entries if _place(entry) > last]
        page, rest = entries[:size], entries[size:]
        headers = {}
        if rest:
            last_of_page = json.dumps(_place(page[-1])).encode()
            beyond = base64.urlsafe_b64encode(last_of_page).decode()
            query = f"per_page={size}&cursor={beyond}"
            headers["link"] = f'<{self.url}/app/hook/deliveries?{query}>; rel="next"'
        items = [entry.item() for entry in page]
        for item in items:
            _check("hook-delivery-item", item)
        return self._json(items, headers=headers)

    async def _detail(self, entry: Entry) -> Response:
        if entry.guid in self.gates:
            await self.gates[entry.guid].wait()
        if entry.missing:
            entry.missing -= 1
            return self._json({"message": "Not Found"}, 404)
        if entry.broken:
            entry.broken -= 1
            return self._json({"message": "Broken on purpose"}, entry.broken_by)
        detail = entry.detail()
        as_described = {**detail, "request": {**detail["request"]}}
        if not isinstance(detail["request"]["payload"], dict | None):
            # Seen in the wild, and not described.
            as_described["request"]["payload"] = {}
        _check("hook-delivery", as_described)
        self.fetched[entry.guid] += 1
        return self._json(detail)

    async def _redeliver(self, entry: Entry) -> Response:
        self.redelivered.append(entry.id)
        again = self.again(entry, status_code=0)
        if self.hook is not None:
            again.status_code = await self.hook(again)
        return self._json({}, 202)

    def _json(
        self, document: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        date = formatdate(self.now(), usegmt=True)
        kind = "application/json; charset=utf-8"
        named = {"date": date, "content-type": kind, **(headers or {})}
        return Response(json.dumps(document), status, named)


def _place(entry: Entry) -> tuple[float, int]:
    """Return where an entry stands in the list, the newest first."""
    return -entry.delivered_at, -entry.number


@cache
def _validator(name: str) -> Draft202012Validator:
    description = json.loads((OPENAPI / "api.github.com.subset.json").read_text())
    schema = description["components"]["schemas"][name]
    return Draft202012Validator(_as_json_schema(schema))


def _as_json_schema(node: Any) -> Any:
    """Return a schema of OpenAPI 3.0 as one of JSON Schema: there `nullable` stands beside the type."""
    if isinstance(node, list):
        return [_as_json_schema(part) for part in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _as_json_schema(part) for name, part in node.items()}
    if schema.pop("nullable", False):
        schema["type"] = [schema["type"], "null"]
    return schema


def _check(name: str, document: Any) -> None:
    _validator(name).validate(document)


@asynccontextmanager
async def deliveries_api(**options: Any) -> AsyncIterator[DeliveriesApi]:
    """Run the API for the length of a block, at the end of which nothing may be complained about."""
    api = DeliveriesApi(**options)
    methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", api.answer, methods=methods)])
    async with asgi_server(app, dated=False) as api.port:
        yield api
    assert api.complaints == []


def key_file(folder: Path, api: DeliveriesApi) -> Path:
    """Write the App's key into a folder, and return the file."""
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / "app-key.pem"
    file.write_text(api.key)
    return file
