"""Requests straight to one origin, with no proxy on the way: HTTP/1.1 by h11 over anyio's streams.

Stands below httpx in place of its own transport. That one keeps connections of many origins, with locks, a
trace of each step and two writes for a request, and costs the daemon four times as much for a call.

Errors are those of httpx, and have the same causes. A request is sent once: whoever asked decides whether to
repeat it. Deliberately absent: time limits except that of connecting, because every call has a deadline.
"""

import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import h11
import httpx
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSAttribute, TLSStream
from attrs import define, field
from typing_extensions import override

from dispatchd.network.connection_trace import ConnectionTrace, tune
from dispatchd.network.proxies import port_of

_READ_BYTES: Final = 256 * 1024
"""Most bytes of one read (bytes): as many as asyncio takes from the kernel at once, so that none stay between the two."""

_PIECE_BYTES: Final = 16 * 1024
"""Most bytes that are parsed at a time (bytes): the peer may have cut them into thousands of parts."""

_HEAD_BYTES: Final = 100 * 1024
"""Largest head of an answer (bytes)."""

_NO_CONNECTION: Final = (OSError, anyio.BrokenResourceError)
_NO_HANDSHAKE: Final = (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream)


@define(eq=False)
class _Tcp(ByteStream):
    """TCP below TLS, which would read it in smaller pieces."""

    stream: SocketStream

    @override
    async def receive(self, max_bytes: int = _READ_BYTES) -> bytes:
        return await self.stream.receive(_READ_BYTES)

    @override
    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    @override
    async def send_eof(self) -> None:
        await self.stream.send_eof()

    @override
    async def aclose(self) -> None:
        await self.stream.aclose()


@define(eq=False)
class _Connection:
    """A connection that serves one request after another."""

    stream: ByteStream
    raw: socket.socket
    tls: ssl.SSLObject | None = None
    http: h11.Connection = field(init=False)
    idle_since_s: float = field(default=0.0, init=False)
    _unparsed: bytes = field(default=b"", init=False)
    _torn: bool = field(default=False, init=False)
    """True once the peer has stopped reading."""

    @http.default
    def _new_http(self) -> h11.Connection:
        return h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)

    async def ask(
        self, request: httpx.Request
    ) -> h11.Response | h11.InformationalResponse:
        """Send a request, in one write, and return the head of its answer.

        Raises:
            LocalProtocolError: The request isn't valid; nothing was sent.
        """
        content = await request.aread()
        target = request.extensions.get("target", request.url.raw_path)
        try:
            head = h11.Request(
                method=request.method, target=target, headers=request.headers.raw
            )
            parts = (head, h11.Data(data=content), h11.EndOfMessage())
            sent = b"".join(self.http.send(part) or b"" for part in parts)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error), request=request) from error
        try:
            await self.stream.send(sent)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            # A server may refuse a request before it has read all of it.
            self._torn = True
        while True:
            event = await self.next_event(request)
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse)
                and event.status_code == httpx.codes.SWITCHING_PROTOCOLS
            ):
                return event

    async def next_event(
        self, request: httpx.Request
    ) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next part of the answer.

        Raises:
            RemoteProtocolError: The answer isn't HTTP, or was cut off.
        """
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                data = await self._receive(request)
                if not data and self.http.their_state is h11.SEND_RESPONSE:
                    message = "Server disconnected without sending a response."
                    raise httpx.RemoteProtocolError(message, request=request)
                self.http.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        return event

    async def _receive(self, request: httpx.Request) -> bytes:
        try:
            if self._unparsed:
                # Nothing else would let other tasks run, or the call end in time.
                await checkpoint()
            else:
                self._unparsed = await self.stream.receive(_READ_BYTES)
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError as error:
            raise httpx.ReadError(str(error), request=request) from error
        piece = self._unparsed[:_PIECE_BYTES]
        self._unparsed = self._unparsed[_PIECE_BYTES:]
        return piece

    def rest(self, now_s: float) -> bool:
        """Return whether the connection can serve another request."""
        http = self.http
        if self._torn or not (http.our_state is http.their_state is h11.DONE):
            return False
        if http.trailing_data[0] or self._unparsed:
            # Somebody would take it for the next answer.
            return False
        http.start_next_cycle()
        self.idle_since_s = now_s
        return True

    def get_extra_info(self, info: str) -> object:
        """Return what httpx's extension `network_stream` offers: the socket."""
        return self.raw if info == "socket" else None

    def is_readable(self) -> bool:
        """Return whether something has come that nobody asked for, as a rule the end of the connection."""
        poll = select.poll()
        poll.register(self.raw, select.POLLIN)
        return bool(poll.poll(0)) or _has_more(self.tls)

    async def close(self) -> None:
        """Close the connection, also for a call that is cancelled."""
        # Takes no time, because nothing is said to the peer.
        with anyio.CancelScope(shield=True):
            await self.stream.aclose()


@define(eq=False)
class _Body(httpx.AsyncByteStream):
    """Body of an answer. At its end the connection is free for the next request."""

    connection: _Connection
    request: httpx.Request
    release: Callable[[_Connection], Awaitable[None]]
    closed: bool = False

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(
            event := await self.connection.next_event(self.request), h11.Data
        ):
            yield bytes(event.data)

    @override
    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            await self.release(self.connection)


class DirectTransport(httpx.AsyncBaseTransport):
    """An httpx transport for requests to one origin.

    A request needs a ConnectionTrace as its extension `trace`, and a time limit for connecting.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        limits: httpx.Limits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._context, self._monotonic = context, monotonic
        most, most_idle = limits.max_connections, limits.max_keepalive_connections
        self._room = anyio.Semaphore(
            sys.maxsize if most is None else most, fast_acquire=True
        )
        self._most_idle = sys.maxsize if most_idle is None else most_idle
        self._expiry_s = limits.keepalive_expiry
        self._idle = deque[_Connection]()
        """Those that wait for a request; the newest is the last."""

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection that waits for one, or on a new one."""
        trace: ConnectionTrace = request.extensions["trace"]
        await self._room.acquire()
        connection: _Connection | None = None
        try:
            connection = await self._idle_one() or await self._connect(request, trace)
            trace.asking()
            head = await connection.ask(request)
        except BaseException:
            self._room.release()
            if connection is not None:
                await connection.close()
            raise
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(connection, request, self._release),
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "reason_phrase": head.reason,
                "network_stream": connection,
            },
        )

    @override
    async def aclose(self) -> None:
        """Close the connections that wait for a request."""
        while self._idle:
            await self._idle.pop().close()

    async def _idle_one(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not self._has_expired(connection) and not connection.is_readable():
                return connection
            await connection.close()
        return None

    async def _release(self, connection: _Connection) -> None:
        self._room.release()
        if connection.rest(self._monotonic()):
            self._idle.append(connection)
        else:
            await connection.close()
        while len(self._idle) > self._most_idle or (
            self._idle and self._has_expired(self._idle[0])
        ):
            await self._idle.popleft().close()

    def _has_expired(self, connection: _Connection) -> bool:
        expiry_s = self._expiry_s
        return (
            expiry_s is not None
            and self._monotonic() - connection.idle_since_s > expiry_s
        )

    async def _connect(
        self, request: httpx.Request, trace: ConnectionTrace
    ) -> _Connection:
        url = request.url
        host = url.raw_host.decode("ascii")
        within_s: float = request.extensions["timeout"]["connect"]
        trace.connecting()
        with (
            _as_connect_errors(request, _NO_CONNECTION),
            anyio.fail_after(within_s),
        ):
            tcp = await anyio.connect_tcp(host, port_of(url))
        raw = tcp.extra(SocketAttribute.raw_socket)  # noqa: S610  # not Django's
        try:
            tune(raw)
            if url.scheme != "https":
                return _Connection(tcp, raw)
            trace.securing()
            with (
                _as_connect_errors(request, _NO_HANDSHAKE),
                anyio.fail_after(within_s),
            ):
                tls = await TLSStream.wrap(
                    _Tcp(tcp),
                    server_side=False,
                    hostname=host,
                    ssl_context=self._context,
                    standard_compatible=False,
                )
        except BaseException:
            await anyio.aclose_forcefully(tcp)
            raise
        ssl_object = tls.extra(TLSAttribute.ssl_object)  # noqa: S610  # likewise
        return _Connection(tls, raw, ssl_object)


def _has_more(tls: ssl.SSLObject | None) -> bool:
    """Return whether there is another record than those that were read, or the end of TLS."""
    if tls is None:
        return False
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


@contextmanager
def _as_connect_errors(
    request: httpx.Request, kinds: tuple[type[Exception], ...]
) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout(str(error), request=request) from error
    except kinds as error:
        raise httpx.ConnectError(str(error), request=request) from error
