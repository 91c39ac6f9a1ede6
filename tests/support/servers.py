"""The servers of the tests: real sockets on a free port of loopback, for the length of a block.

`http_server` answers by a function, in threads: for clients that block, such as git. `asgi_server` runs an application,
and `tcp_server` gives each connection to a coroutine, on the test's own event loop and by its time.
"""

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import h11
import uvicorn
from anyio.abc import ByteReceiveStream, SocketAttribute, SocketStream
from attrs import field, frozen
from typing_extensions import override

from support.clock import pass_ticks


@frozen
class Request:
    """A request; the names of `headers` are in lower case, and `path` has the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@frozen
class Reply:
    """An answer; its length is added."""

    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""


@contextmanager
def http_server(
    answer: Callable[[Request], Reply],
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Answer requests for the length of a block, each in a thread; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = answer(Request(self.command, self.path, headers, _body(self)))
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_PATCH = do_GET  # noqa: N815  # the names that http.server looks for

        @override
        def log_message(self, *_: object) -> None:
            pass

    with threaded(Handler, port=port, tls=tls) as at:
        yield at


@contextmanager
def threaded(
    handler: type[BaseHTTPRequestHandler],
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Run a handler in threads for the length of a block; yield the port."""
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def tcp_server(
    talk: Callable[[SocketStream], Awaitable[None]],
) -> AsyncIterator[int]:
    """Let `talk` have each connection, and close it after that; yield the port. A client that goes away ends its talk."""

    async def connection(stream: SocketStream) -> None:
        async with stream:
            with suppress(
                anyio.BrokenResourceError,
                anyio.ClosedResourceError,
                anyio.EndOfStream,
                h11.ProtocolError,
            ):
                await talk(stream)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, connection)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def read_request(
    http: h11.Connection, stream: ByteReceiveStream
) -> tuple[h11.Request, bytes]:
    """Return the next request of a connection, and its body."""
    head: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, body
        elif isinstance(event, h11.ConnectionClosed):
            raise anyio.EndOfStream


_NEVER_S = 10**9


@asynccontextmanager
async def asgi_server(
    app: Any, certificate: str = "", *, dated: bool = True
) -> AsyncIterator[int]:
    """Serve an application; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Accepted connections inherit it; else an answer waits 40 ms for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                ssl_certfile=certificate or None,
                log_level="critical",
                access_log=False,
                date_header=dated,
                lifespan="off",
                timeout_graceful_shutdown=1,
                # Clients give idle connections up: where time is moved, both would do so in the same moment.
                timeout_keep_alive=_NEVER_S,
            )
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, server, listener)
            try:
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
                await pass_ticks()


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    await server._serve([listener])  # noqa: SLF001  # `serve` would take over the test's signals


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", "0")))
    body = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body
