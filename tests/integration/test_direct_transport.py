"""The connections of the daemon's own way: how many there are, how long they last, and who closes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import httpx
from anyio.abc import ByteStream, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream
from attrs import define, field
from typing_extensions import override

from dispatchd.network.connection_trace import ConnectionTrace
from dispatchd.network.direct import DirectTransport
from dispatchd.network.trust import client_context
from support.certificates import Authority, server_context
from support.clock import within
from support.servers import tcp_server

WITHIN_S: Final = 20.0
ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


def request(url: str) -> httpx.Request:
    extensions = {"trace": ConnectionTrace(None), "timeout": {"connect": 10.0}}
    return httpx.Request("POST", url, content=b"{}", extensions=extensions)


@define
class Server:
    """Answers each request once it may, and counts its connections."""

    may_answer: anyio.Event = field(factory=anyio.Event)
    connections: int = 0
    open: int = 0
    waiting: int = 0

    async def connection(self, stream: SocketStream) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                received = b""
                while not received.endswith(b"{}"):
                    received += await stream.receive()
                self.waiting += 1
                await self.may_answer.wait()
                self.waiting -= 1
                await stream.send(ANSWER)
        finally:
            self.open -= 1


@define
class Site:
    """A server, and a way to it."""

    server: Server
    transport: DirectTransport
    url: str = ""

    async def ask(self) -> int:
        answer = await self.transport.handle_async_request(request(self.url))
        await answer.aread()
        await answer.aclose()
        return answer.status_code

    async def until(self, *, waiting: int = 0, open_: int) -> None:
        with within(WITHIN_S):
            while (self.server.waiting, self.server.open) != (waiting, open_):
                await anyio.sleep(0.001)


@asynccontextmanager
async def site(limits: httpx.Limits, now_s: list[float]) -> AsyncIterator[Site]:
    transport = DirectTransport(client_context(None), limits, lambda: now_s[0])
    here = Site(Server(), transport)
    async with tcp_server(here.server.connection) as port:
        here.url = f"http://127.0.0.1:{port}/"
        async with transport:
            yield here
        await here.until(open_=0)


async def test_no_more_connections_than_allowed_and_every_request_gets_its_turn() -> (
    None
):
    async with site(httpx.Limits(max_connections=2), [0.0]) as here:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(here.ask)
            await here.until(waiting=2, open_=2)
            here.server.may_answer.set()

        assert here.server.connections == 2


async def test_only_so_many_wait_for_the_next_request() -> None:
    limits = httpx.Limits(max_connections=3, max_keepalive_connections=1)
    async with site(limits, [0.0]) as here:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(here.ask)
            await here.until(waiting=3, open_=3)
            here.server.may_answer.set()

        await here.until(open_=1)
        await here.ask()
        assert here.server.connections == 3


async def test_a_connection_that_has_waited_for_too_long_is_closed() -> None:
    now_s = [0.0]
    async with site(httpx.Limits(keepalive_expiry=30), now_s) as here:
        here.server.may_answer.set()
        for now_s[0] in (0, 30, 60):
            await here.ask()
        assert here.server.connections == 1

        now_s[0] = 90.1
        await here.ask()
        assert here.server.connections == 2
        await here.until(open_=1)


async def test_a_cancelled_request_closes_its_connection_and_makes_room() -> None:
    async with site(httpx.Limits(max_connections=1), [0.0]) as here:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.ask)
            await here.until(waiting=1, open_=1)
            tasks.cancel_scope.cancel()
        here.server.may_answer.set()

        with within(WITHIN_S):
            assert await here.ask() == 204
        assert here.server.connections == 2


async def test_a_request_that_waits_for_its_turn_can_be_cancelled() -> None:
    async with site(httpx.Limits(max_connections=1), [0.0]) as here:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.ask)
            await here.until(waiting=1, open_=1)
            with anyio.move_on_after(0) as scope:
                await here.ask()
            assert scope.cancelled_caught
            here.server.may_answer.set()

        with within(WITHIN_S):
            assert await here.ask() == 204
        assert here.server.connections == 1


async def test_what_came_unasked_is_nobodys_answer() -> None:
    connections = 0

    async def serve(stream: SocketStream) -> None:
        nonlocal connections
        connections += 1
        await stream.receive()
        # In one write, so that the client has both before it asks again.
        await stream.send(ANSWER + b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        await stream.receive()

    transport = DirectTransport(client_context(None), httpx.Limits())
    async with tcp_server(serve) as port, transport:
        here = Site(Server(), transport, f"http://127.0.0.1:{port}/")

        assert [await here.ask(), await here.ask()] == [204, 204]

    assert connections == 2


UNASKED: Final = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"


async def test_what_came_behind_a_long_answer_is_nobodys_answer() -> None:
    # Reads of 64 KiB would end just where this answer ends.
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    rest = (64 << 10) - len(head % 10**4)
    answer = head % rest + bytes(rest)
    assert len(answer) == 64 << 10

    async def serve(stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(answer + UNASKED)
        await stream.receive()

    transport = DirectTransport(client_context(None), httpx.Limits())
    async with tcp_server(serve) as port, transport:
        here = Site(Server(), transport, f"http://127.0.0.1:{port}/")

        with within(WITHIN_S):
            assert [await here.ask(), await here.ask()] == [200, 200]


async def test_what_came_unasked_in_a_record_of_its_own_is_nobodys_answer(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    context = server_context(authority.issue("127.0.0.1"))

    async def serve(stream: SocketStream) -> None:
        records = _Records(stream)
        tls = await TLSStream.wrap(records, server_side=True, ssl_context=context)
        await tls.receive()
        records.held = b""
        await tls.send(ANSWER)
        await tls.send(UNASKED)
        await records.release()
        await tls.receive()

    transport = DirectTransport(client_context(authority.file), httpx.Limits())
    async with tcp_server(serve) as port, transport:
        here = Site(Server(), transport, f"https://127.0.0.1:{port}/")

        with within(WITHIN_S):
            assert [await here.ask(), await here.ask()] == [204, 204]


async def test_an_answer_in_thousands_of_parts_lets_others_have_their_turns() -> None:
    parts = 20_000
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent, turns = anyio.Event(), 0

    async def serve(stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(head + b"1\r\nx\r\n" * parts + b"0\r\n\r\n")
        sent.set()
        await stream.receive()

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    transport = DirectTransport(client_context(None), httpx.Limits())
    async with tcp_server(serve) as port, transport:
        answer = await transport.handle_async_request(
            request(f"http://127.0.0.1:{port}/")
        )
        with within(WITHIN_S):
            await sent.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take_turns)
                assert len(await answer.aread()) == parts
                tasks.cancel_scope.cancel()
        await answer.aclose()

    # Each has a few KiB; at one go they would keep the event loop for half a second.
    assert turns >= 5


@define(eq=False)
class _Records(ByteStream):
    """Stream below TLS that can hold records, so that they leave in one write."""

    stream: SocketStream
    held: bytes | None = None

    async def release(self) -> None:
        held, self.held = self.held or b"", None
        await self.stream.send(held)

    @override
    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.stream.receive(max_bytes)

    @override
    async def send(self, item: bytes) -> None:
        if self.held is None:
            await self.stream.send(item)
        else:
            self.held += item

    @override
    async def send_eof(self) -> None:
        await self.stream.send_eof()

    @override
    async def aclose(self) -> None:
        await self.stream.aclose()
