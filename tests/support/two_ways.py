"""One server that misbehaves as it is told, asked on the daemon's own way and on httpx's."""

import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Final, cast

import anyio
import httpx
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from attrs import define, field, frozen
from typing_extensions import override

from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.plain_client import Http, PlainClient
from dispatchd.agent.endpoint.pool import LastingStream, Pool, as_httpx_errors
from dispatchd.agent.endpoint.transport import ReloadingTransport, TransportSettings
from dispatchd.errors import RemoteError
from dispatchd.network.connection_trace import ConnectionTrace
from dispatchd.network.trust import client_context
from support.outward import BODY, PULL

MOST_BYTES: Final = 2048
LIMITS: Final = httpx.Limits(max_connections=4, max_keepalive_connections=2)
HEADERS: Final = {"User-Agent": "test", "Accept-Encoding": "identity"}


@frozen
class Answer:
    """What the server sends to one request, in pieces, and what it does then: `keep`, `close` or `reset`."""

    pieces: tuple[bytes, ...]
    end: str


@define
class Server:
    """Gives the answers one after the other, whatever connection asks."""

    answers: Sequence[Answer]
    tls: ssl.SSLContext | None = None
    connections: int = 0
    requests: list[tuple[bytes, ...]] = field(factory=list)
    ending: int = 0

    async def connection(self, stream: SocketStream) -> None:
        self.connections += 1
        over: ByteStream = stream
        if self.tls is not None:
            over = await TLSStream.wrap(
                stream,
                server_side=True,
                ssl_context=self.tls,
                standard_compatible=False,
            )
        end = "keep"
        while end == "keep":
            self.requests.append(await _read_request(over))
            answer = self.answers[len(self.requests) - 1]
            for piece in answer.pieces:
                await over.send(piece)
            end = answer.end
        self.ending += 1
        if end == "reset":
            raw = stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        self.ending -= 1

    async def settled(self) -> None:
        """Wait until what has ended is closed."""
        while self.ending:
            await anyio.lowlevel.checkpoint()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()


async def _read_request(stream: ByteStream) -> tuple[bytes, ...]:
    """Return a request's line, its headers in order of their names but for the call's number, and its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    names = {each.partition(b":")[0].lower(): each for each in headers}
    length = int(names[b"content-length"].partition(b":")[2])
    while len(body) < length:
        body += await stream.receive()
    del names[b"dispatch-call"]
    values = (each.partition(b":")[2] for each in names.values())
    return line, *sorted(map(b":".join, zip(names, values, strict=True))), body


class _ByHttpx(httpx.AsyncBaseTransport):
    """httpx's own transport, with the trace that locates a failure."""

    def __init__(self, context: ssl.SSLContext) -> None:
        inner = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=LIMITS)
        self._pool = Pool(inner, proxy=None, since_s=0)

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        trace = ConnectionTrace(None)
        request.extensions = {"trace": trace, "timeout": {"connect": 10}}
        self._pool.enter()
        with as_httpx_errors(request):
            response = await self._pool.inner.handle_async_request(request)
        body = cast("httpx.AsyncByteStream", response.stream)
        response.stream = LastingStream(body, self._pool, request)
        return response

    @override
    async def aclose(self) -> None:
        await self._pool.inner.aclose()


_context: Final = cache(client_context)


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@asynccontextmanager
async def caller(settings: TransportSettings, *, own: bool) -> AsyncIterator[Caller]:
    """Yield a caller of an endpoint, on the daemon's own way, or on httpx's."""
    async with AsyncExitStack() as stack:
        http: Http
        if own:
            transport = await stack.enter_async_context(
                ReloadingTransport(settings, limits=LIMITS, monotonic=time.monotonic)
            )
            http = PlainClient(transport, httpx.URL(settings.url), HEADERS)
        else:
            http = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=settings.url,
                    headers=HEADERS,
                    timeout=None,
                    trust_env=False,
                    transport=_ByHttpx(_context(settings.ca_file)),
                )
            )
        yield Caller(http=http, settings=settings, clock=_Clock())


async def outcome(caller: Caller, port: int, *, deadline_s: float = 60) -> object:
    """Call once and return the result: the reply, or the error and its sentence."""
    try:
        reply = await caller.post(
            "pull", PULL, dict(BODY), deadline_s=deadline_s, most_bytes=MOST_BYTES
        )
    except RemoteError as error:
        return type(error).__name__, str(error).replace(str(port), "PORT")
    return reply.status, {**reply.headers}, reply.body
