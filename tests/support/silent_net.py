"""A way to a server on which connections can go silent: nothing is closed, and nothing arrives any more."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.from_thread import start_blocking_portal
from attrs import define, field


@define
class Passage:
    """One connection; `sent` is the start of what its client has sent."""

    sent: bytes = b""
    is_silent: bool = False


@define
class SilentNet:
    """A proxy on a loopback port."""

    port: int
    passages: list[Passage] = field(factory=list)

    def url(self, direct: str) -> str:
        """Return the URL of a database by way of this."""
        head, _, rest = direct.rpartition(":")
        return f"{head}:{self.port}/{rest.partition('/')[2]}"

    are_new_silent: bool = False

    def go_silent(self) -> None:
        """Let all connections go silent, those that are made from now on too."""
        self.are_new_silent = True
        self.silence()

    def silence(self, with_bytes: bytes = b"") -> int:
        """Let those connections go silent that are open, or whose client has sent some bytes; return how many."""
        found = [each for each in self.passages if with_bytes in each.sent]
        for each in found:
            each.is_silent = True
        return len(found)


@contextmanager
def silent_net(to_port: int) -> Iterator[SilentNet]:
    """Run a proxy to a loopback port for the length of a block, in a thread: who opens a database blocks."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_serving(to_port)) as net,
    ):
        yield net


@asynccontextmanager
async def _serving(to_port: int) -> AsyncIterator[SilentNet]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        net = SilentNet(listener.extra(SocketAttribute.local_port))

        async def serve(client: ByteStream) -> None:
            passage = Passage(is_silent=net.are_new_silent)
            net.passages.append(passage)
            with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                async with (
                    client,
                    await anyio.connect_tcp("127.0.0.1", to_port) as server,
                    anyio.create_task_group() as both,
                ):
                    both.start_soon(_pump, client, server, passage, True)
                    both.start_soon(_pump, server, client, passage, False)

        tasks.start_soon(listener.serve, serve)
        yield net
        tasks.cancel_scope.cancel()


async def _pump(
    source: ByteStream,
    target: ByteStream,
    passage: Passage,
    is_of_client: bool,  # noqa: FBT001  # started as a task
) -> None:
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for part in source:
            if passage.is_silent:
                await anyio.sleep_forever()
            if is_of_client:
                passage.sent = (passage.sent + part)[:10_000]
            await target.send(part)
        if passage.is_silent:
            await anyio.sleep_forever()
        await target.aclose()
