"""A dispatch endpoint that can misbehave: real HTTP on loopback, scripted by the test.

Every request is checked against the contracts; what it does wrong is kept in `complaints`, which must be
empty at the end. By default it behaves: it hands out the queued jobs and takes accepts and finishes.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import h11
from anyio.abc import ByteStream
from attrs import define, field, frozen

from dispatchd.errors import ContractViolation
from dispatchd.protocol.contracts import check
from support.clock import within
from support.servers import read_request, tcp_server

SECRET = "s3cret-of-the-machine"
TOKEN = "token-that-the-endpoint-has-given"
Json = dict[str, Any]


@frozen(kw_only=True)
class Request:
    call: str
    job_id: str
    body: Json
    headers: dict[str, str]

    @property
    def hold_s(self) -> float:
        prefer = self.headers.get("prefer", "")
        return (
            float(prefer.removeprefix("wait=")) if prefer.startswith("wait=") else 0.0
        )


@frozen(kw_only=True)
class Answer:
    """What goes back; `cut` closes the connection without an answer, `truncated` in its middle.

    One that `stalls` has a head, and no body for as long as the other side waits.
    """

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(factory=dict)
    cut: bool = False
    truncated: bool = False
    stalls: bool = False


def as_json(document: object, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(
        status=status,
        body=json.dumps(document).encode(),
        headers={"content-type": "application/json", **named},
    )


Script = Callable[[Request], Answer | None]
"""Decides on a request, or leaves it to the well-behaved default by returning None."""

_CONTRACTS = {
    "pull": "pull-request",
    "accept": "accept-request",
    "finish": "finish-request",
    "heartbeat": "heartbeat-request",
    "log": "log-request",
    "artifacts": "artifacts-request",
    "artifact": "artifact-request",
    "release": "release-request",
    "token": "token-grant-request",
    "license-activate": "activate-request",
    "license-heartbeat": "license-heartbeat-request",
}


@define
class Endpoint:
    """State of the endpoint and everything that was asked of it."""

    port: int = 0
    holds: bool = True
    knows_lists: bool = True
    """Whether a pull with an empty list of workflows gets cancel jobs alone."""
    script: Script | None = None
    queue: deque[bytes] = field(factory=deque)
    requests: list[Request] = field(factory=list)
    complaints: list[str] = field(factory=list)
    finished: dict[str, Json] = field(factory=dict)
    accepted: dict[str, Json] = field(factory=dict)
    cancelled: set[str] = field(factory=set)
    _changed: anyio.Event = field(factory=anyio.Event)
    _cut: anyio.Event = field(factory=anyio.Event)
    _cut_answer: Answer = field(factory=lambda: Answer(cut=True))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hand_out(self, job: Json | bytes) -> None:
        self.queue.append(job if isinstance(job, bytes) else json.dumps(job).encode())
        self._ring()

    def calls(self, call: str, job_id: str = "") -> list[Request]:
        return [
            request
            for request in self.requests
            if request.call == call and (not job_id or request.job_id == job_id)
        ]

    async def until(
        self, condition: Callable[["Endpoint"], bool], within_s: float = 30
    ) -> None:
        """Return when a condition on this endpoint has become true."""
        with within(within_s):
            while not condition(self):
                await self._changed.wait()

    async def until_finished(self, *job_ids: str, within_s: float = 30) -> list[Json]:
        await self.until(
            lambda e: all(job_id in e.finished for job_id in job_ids), within_s
        )
        return [self.finished[job_id] for job_id in job_ids]

    def cut_held_polls(self, answer: Answer | None = None) -> None:
        """Have something on the way answer the polls that are held now, or close their connections without an answer."""
        self._cut_answer = answer or Answer(cut=True)
        self._cut.set()
        self._cut = anyio.Event()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def connection(self, stream: ByteStream) -> None:
        """Answer the requests of one connection."""
        http = h11.Connection(h11.SERVER)
        while True:
            head, body = await read_request(http, stream)
            if head.method != b"POST":
                # It is no call of the contract, such as what a proxy is asked for.
                return
            request = self._parse(head, body)
            answer = await self._answer(request)
            if answer.cut:
                return
            headers = [
                *answer.headers.items(),
                ("content-length", str(len(answer.body))),
            ]
            start = h11.Response(status_code=answer.status, headers=headers)
            await stream.send(http.send(start) or b"")
            if answer.stalls:
                # Ends with the connection.
                await stream.receive()
            if answer.truncated:
                await stream.send(answer.body[: len(answer.body) // 2])
                return
            await stream.send(
                (http.send(h11.Data(data=answer.body)) or b"")
                + (http.send(h11.EndOfMessage()) or b"")
            )
            http.start_next_cycle()

    def _parse(self, head: h11.Request, body: bytes) -> Request:
        target = head.target.decode()
        parts = target.removeprefix("/api/v1/github/dispatch/").split("/")
        document = json.loads(body)
        licensing = target.startswith("/api/v1/licenses/")
        call = f"license-{parts[-1]}" if licensing else parts[-1]
        try:
            check(_CONTRACTS[call], document)
        except (ContractViolation, KeyError) as error:
            self.complaints.append(f"{head.target!r}: {error}")
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Request(
            call=call,
            job_id=parts[0] if len(parts) > 1 and not licensing else "",
            body=document,
            headers=headers,
        )

    async def _answer(self, request: Request) -> Answer:
        self.requests.append(request)
        self._ring()
        scripted = self.script(request) if self.script else None
        if scripted is not None:
            return scripted
        if request.call == "pull":
            return await self._pull(request)
        if request.call == "accept":
            self.accepted[request.job_id] = request.body
        if request.call == "finish":
            self.finished[request.job_id] = request.body
        self._ring()
        if request.call == "heartbeat":
            return as_json({"cancel_requested": request.job_id in self.cancelled})
        if request.call == "log":
            return as_json({"offset": request.body["offset"] + request.body["length"]})
        if request.call == "token":
            return as_json({"token": TOKEN, "expires_at": 1764066000})
        return Answer()

    async def _pull(self, request: Request) -> Answer:
        applied = (
            {"preference-applied": f"wait={request.hold_s:g}"} if self.holds else {}
        )
        cut = self._cut
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                self._until_queued,
                request,
                request.hold_s if self.holds else 0,
                tasks.cancel_scope,
            )
            await cut.wait()
            tasks.cancel_scope.cancel()
        if cut.is_set():
            return self._cut_answer
        job = self._first_for(request)
        if job is None:
            return Answer(headers=applied)
        self.queue.remove(job)
        headers = {"content-type": "application/json", **applied}
        return Answer(status=200, body=job, headers=headers)

    def _first_for(self, request: Request) -> bytes | None:
        """Return the first queued job that a pull is for."""
        cancels_only = self.knows_lists and request.body.get("workflows") == []
        for job in self.queue:
            if not cancels_only or json.loads(job).get("command") == "cancel":
                return job
        return None

    async def _until_queued(
        self, request: Request, hold_s: float, poll: anyio.CancelScope
    ) -> None:
        with anyio.move_on_after(hold_s):
            while self._first_for(request) is None:
                await self._changed.wait()
        poll.cancel()


@asynccontextmanager
async def endpoint(*, holds: bool = True) -> AsyncIterator[Endpoint]:
    """Serve an endpoint on a free loopback port."""
    server = Endpoint(holds=holds)
    async with tcp_server(server.connection) as server.port:
        yield server
    assert not server.complaints, server.complaints
