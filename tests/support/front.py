"""A reverse proxy on loopback that also answers by itself: an ingress, a gateway, a login page, a cut line."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum

import anyio
import h11
import httpx
from anyio.abc import SocketStream
from attrs import define, field, frozen

from support.hub import NO_TLS
from support.servers import read_request, tcp_server

Headers = list[tuple[bytes, bytes]]


class Cut(Enum):
    """Where the line is cut."""

    BEFORE = "before"
    """The request never arrives."""
    AFTER = "after"
    """It arrives, and nobody hears the answer."""
    AMID = "amid"
    """The answer ends in its middle."""


@frozen(kw_only=True)
class Fault:
    """What is done to one call. `page` answers in place of the server, which sees the call if it `arrives`."""

    page: bytes | None = None
    status: int = 200
    content_type: str = "text/html"
    arrives: bool = False
    cut: Cut | None = None
    delay_s: float = 0
    sent_twice: bool = False
    """The server gets the request twice."""
    answered_twice: bool = False
    """The client gets the answer twice."""


@frozen
class _Answer:
    status: int
    headers: Headers
    body: bytes


@define(kw_only=True)
class Front:
    """The proxy; `decide` says by a call's path what is done to it, None for nothing."""

    to: str
    """URL of the server, asked anew for each call: it may come back on another port."""
    decide: Callable[[str], Fault | None] = lambda _: None
    reword: Callable[[int, Headers, bytes], tuple[Headers, bytes]] = (
        lambda _status, headers, body: (headers, body)
    )
    """Changes what the server answers on its way back."""
    port: int = 0
    faults: list[tuple[str, Fault]] = field(factory=list)
    """What was done so far, in order, with the path."""
    answered: list[str] = field(factory=list)
    """The paths of the calls that the server has answered, in order."""
    _changed: anyio.Event = field(factory=anyio.Event)
    _http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def until_done(self, count: int) -> None:
        """Return when something has been done to this many calls."""
        with anyio.fail_after(60):
            while len(self.faults) < count:
                await self._changed.wait()

    async def connection(self, stream: SocketStream) -> None:
        """Answer the requests of one connection."""
        http = h11.Connection(h11.SERVER)
        while True:
            head, body = await read_request(http, stream)
            path = head.target.decode()
            fault = self.decide(path) or Fault()
            if fault != Fault():
                self.faults.append((path, fault))
                self._changed.set()
                self._changed = anyio.Event()
            await anyio.sleep(fault.delay_s)
            answer = await self._answer(stream, head, body, fault)
            if answer is None or not await _send(http, stream, answer, fault):
                return
            http.start_next_cycle()

    async def _answer(
        self, stream: SocketStream, head: h11.Request, body: bytes, fault: Fault
    ) -> _Answer | None:
        """Return what the client gets; None to cut it off."""
        if fault.cut is Cut.BEFORE:
            return None
        answer = None
        if fault.page is None or fault.arrives:
            for _ in range(2 if fault.sent_twice else 1):
                answer = await self._pass_on(stream, head, body)
                if answer is None:
                    return None
        if fault.page is not None:
            kind = fault.content_type.encode()
            return _Answer(fault.status, [(b"content-type", kind)], fault.page)
        return None if fault.cut is Cut.AFTER else answer

    async def _pass_on(
        self, stream: SocketStream, head: h11.Request, body: bytes
    ) -> _Answer | None:
        """Return what the server answers; None if it doesn't, or the client hangs up before."""
        answer: _Answer | None = None

        async def ask() -> None:
            nonlocal answer
            fields = [header for header in head.headers if header[0] != b"host"]
            try:
                reply = await self._http.request(
                    head.method.decode(),
                    f"{self.to}{head.target.decode()}",
                    content=body,
                    headers=fields,
                )
            except httpx.HTTPError:
                tasks.cancel_scope.cancel()
                return
            headers = [
                (name.lower(), value)
                for name, value in reply.headers.raw
                if name.lower() not in (b"content-length", b"connection")
            ]
            self.answered.append(head.target.decode())
            changed, content = self.reword(reply.status_code, headers, reply.content)
            answer = _Answer(reply.status_code, changed, content)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                # A client sends nothing before it has its answer, so this is its end.
                await stream.receive()
            tasks.cancel_scope.cancel()
        return answer


async def _send(
    http: h11.Connection, stream: SocketStream, answer: _Answer, fault: Fault
) -> bool:
    """Send an answer, and return whether the connection goes on."""
    length = (
        [] if answer.status == 204 else [(b"content-length", b"%d" % len(answer.body))]
    )
    start = h11.Response(status_code=answer.status, headers=[*answer.headers, *length])
    head = http.send(start) or b""
    body = b"" if answer.status == 204 else answer.body
    if fault.cut is Cut.AMID:
        await stream.send((head + body)[: len(head) + len(body) // 2 - 1])
        return False
    if body:
        body = http.send(h11.Data(data=body)) or b""
    end = http.send(h11.EndOfMessage()) or b""
    whole = head + body + end
    await stream.send(whole * 2 if fault.answered_twice else whole)
    return True


@asynccontextmanager
async def front(to: str) -> AsyncIterator[Front]:
    """Serve a front of a server for the length of a block."""
    async with httpx.AsyncClient(timeout=None, verify=NO_TLS, trust_env=False) as http:
        server = Front(to=to, http=http)
        async with tcp_server(server.connection) as server.port:
            yield server


def pages(times: int, fault: Fault, *ends: str) -> Callable[[str], Fault | None]:
    """Return what does the same to the first calls whose path ends so."""
    left = times

    def decide(path: str) -> Fault | None:
        nonlocal left
        if left and path.endswith(ends):
            left -= 1
            return fault
        return None

    return decide
