"""A forward proxy on loopback (RFC 9110, 9.3.6 and 3.7): it tunnels, forwards, and can refuse.

Every name leads to this machine, so that the endpoint can have one that needs no DNS.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketStream
from attrs import define, field, frozen

from support.servers import tcp_server


@frozen(kw_only=True)
class Request:
    """What the proxy was asked for; `credentials` are those of Proxy-Authorization, decoded."""

    method: str
    target: str
    credentials: str


@define(kw_only=True)
class Proxy:
    """With `credentials` it wants exactly those; with `refuse_with` it answers only that status."""

    credentials: str = ""
    refuse_with: str = ""
    port: int = 0
    requests: list[Request] = field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connection(self, stream: SocketStream) -> None:
        """Carry one connection, until one of its ends goes away or the server beyond can't be reached."""
        with suppress(OSError):
            await self._talk(stream)

    async def _talk(self, stream: SocketStream) -> None:
        head, rest = await _head(stream, b"")
        request = self._note(head)
        if refusal := self._refusal(request):
            answer = f"HTTP/1.1 {refusal}\r\ncontent-length: 0\r\nconnection: close\r\n"
            await stream.send(f"{answer}\r\n".encode())
            return
        port = int(urlsplit(f"//{request.target.removeprefix('http://')}").port or 80)
        async with await anyio.connect_tcp("127.0.0.1", port) as beyond:
            if request.method == "CONNECT":
                await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _pump_both(stream, beyond)
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pump, beyond, stream, tasks.cancel_scope)
                    tasks.start_soon(self._forward, stream, beyond, head, rest)

    def _note(self, head: list[str]) -> Request:
        method, target, _ = head[0].split(" ")
        credentials = _field(head, "proxy-authorization").removeprefix("Basic ")
        request = Request(
            method=method,
            target=target,
            credentials=base64.b64decode(credentials).decode(),
        )
        self.requests.append(request)
        return request

    def _refusal(self, request: Request) -> str:
        if self.credentials and request.credentials != self.credentials:
            return "407 Proxy Authentication Required"
        return self.refuse_with

    async def _forward(
        self, stream: SocketStream, beyond: SocketStream, head: list[str], rest: bytes
    ) -> None:
        """Hand requests on in origin form, without what was for the proxy."""
        while True:
            method, target, version = head[0].split(" ")
            path = target.removeprefix("http://").partition("/")[2]
            fields = [
                header for header in head[1:] if not header.lower().startswith("proxy-")
            ]
            lines = [f"{method} /{path} {version}", *fields, "", ""]
            while len(rest) < int(_field(head, "content-length") or 0):
                rest += await stream.receive()
            await beyond.send("\r\n".join(lines).encode() + rest)
            try:
                head, rest = await _head(stream, b"")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                await beyond.send_eof()
                return
            self._note(head)


async def _head(stream: SocketStream, received: bytes) -> tuple[list[str], bytes]:
    """Return a request's first lines, and what came behind them."""
    while b"\r\n\r\n" not in received:
        received += await stream.receive()
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


def _field(head: list[str], header_name: str) -> str:
    for line in head[1:]:
        name, _, value = line.partition(": ")
        if name.lower() == header_name:
            return value
    return ""


async def _pump_both(one: SocketStream, other: SocketStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_pump, one, other, tasks.cancel_scope)
        tasks.start_soon(_pump, other, one, tasks.cancel_scope)


async def _pump(
    source: SocketStream, sink: SocketStream, both: anyio.CancelScope
) -> None:
    try:
        async for chunk in source:
            await sink.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    both.cancel()


@asynccontextmanager
async def proxy(
    *, credentials: str = "", refuse_with: str = ""
) -> AsyncIterator[Proxy]:
    """Serve a proxy on a free loopback port."""
    server = Proxy(credentials=credentials, refuse_with=refuse_with)
    async with tcp_server(server.connection) as server.port:
        yield server
