"""A way to a server that can be troubled: silent, slow, reset, cut, late, or with requests that overtake each other.

It knows nothing of what travels. What a client sends after it was answered, or first, begins an exchange; the plan
says for each exchange, by its first bytes, what befalls it.
"""

import json
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from math import inf
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.from_thread import start_blocking_portal
from attrs import define, field

from support.servers import tcp_server


class Fault(StrEnum):
    """What can befall an exchange."""

    SILENT = "silent"
    """The request doesn't arrive, nothing comes back, and nothing is closed for as long as the fault lasts."""
    SLOW = "slow"
    """Both ways carry a few bytes at a time."""
    RESET = "reset"
    """The request arrives; in place of the answer the connection is reset."""
    CUT = "cut"
    """The request arrives; the connection is closed in the middle of the answer."""
    LATE = "late"
    """The request arrives; the answer comes after a while."""
    BEHIND = "behind"
    """The request arrives after a later one of another connection, or after a while."""


Plan = Callable[[bytes], Fault | None]
"""Decides on an exchange by its first bytes."""

_NO_LINGER = struct.pack("ii", 1, 0)
"""With it, close(2) resets the connection (socket(7), SO_LINGER)."""
_SLOW_BYTES = 200
_SLOW_S = 0.05
"""How much a slow exchange carries at a time, and how often (bytes, seconds)."""
_NOTED = 10_000
"""How much is noted of what a client has sent (bytes)."""


def no_faults(_: bytes) -> Fault | None:
    """Let everything pass."""
    return None


@define
class InTurn:
    """Troubles the first exchanges that have some bytes in them, in turn, and lets all others pass."""

    marker: bytes
    faults: list[Fault]

    def __call__(self, start: bytes) -> Fault | None:
        if self.faults and self.marker in start:
            return self.faults.pop(0)
        return None


@define
class AtRandom:
    """Troubles a share of all exchanges while it is on, by a seed."""

    chance: random.Random
    share: float
    is_on: bool = False
    counts: Counter[Fault] = field(factory=Counter)

    def __call__(self, _: bytes) -> Fault | None:
        if not self.is_on or self.chance.random() >= self.share:
            return None
        fault = self.chance.choice(list(Fault))
        self.counts[fault] += 1
        return fault


@define(eq=False)
class Passage:
    """One connection; `sent` is the start of what its client has sent, `start` that of the newest exchange."""

    sent: bytes = b""
    start: bytes = b""
    is_silent: bool = False
    is_answered: bool = True
    fault: Fault | None = None


@define
class Net:
    """A proxy on a loopback port. Times are in seconds."""

    port: int
    plan: Plan = no_faults
    silent_s: float = inf
    """After this a silent connection is reset, as a network's state tables do it."""
    late_s: float = 3.0
    """How late an answer is, or a request that is overtaken by none."""
    passages: list[Passage] = field(factory=list)
    are_new_silent: bool = False
    _passed: anyio.Event = field(factory=anyio.Event)
    """Set when the next request passes."""

    def url(self, direct: str) -> str:
        """Return a URL by way of this."""
        head, _, rest = direct.rpartition(":")
        tail = rest.partition("/")[2]
        return f"{head}:{self.port}/{tail}" if tail else f"{head}:{self.port}"

    def go_silent(self) -> None:
        """Let all connections go silent, those that are made from now on too."""
        self.are_new_silent = True
        self.silence()

    def silence(self, with_bytes: bytes = b"") -> int:
        """Let those connections go silent that are open, or whose client has sent some bytes; return how many."""
        silenced = [passage for passage in self.passages if with_bytes in passage.sent]
        for passage in silenced:
            passage.is_silent = True
        return len(silenced)

    async def carry(self, client: ByteStream, to_port: int) -> None:
        """Carry one connection to its end."""
        passage = Passage(is_silent=self.are_new_silent)
        self.passages.append(passage)
        try:
            with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                async with (
                    client,
                    await anyio.connect_tcp("127.0.0.1", to_port) as server,
                    anyio.create_task_group() as both,
                ):
                    both.start_soon(
                        self._up, client, server, passage, both.cancel_scope
                    )
                    both.start_soon(
                        self._down, client, server, passage, both.cancel_scope
                    )
        finally:
            self.passages.remove(passage)

    async def _up(
        self,
        client: ByteStream,
        server: ByteStream,
        passage: Passage,
        both: anyio.CancelScope,
    ) -> None:
        """Carry what the client sends."""
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for part in client:
                passage.sent = (passage.sent + part)[:_NOTED]
                if passage.is_answered:
                    passage.is_answered = False
                    passage.start = part
                    passage.fault = self.plan(part)
                if passage.is_silent or passage.fault is Fault.SILENT:
                    break
                if passage.fault is Fault.BEHIND:
                    with anyio.move_on_after(self.late_s):
                        await self._passed.wait()
                await _send(server, part, passage)
                self._passed.set()
                self._passed = anyio.Event()
            await self._stay_silent(client, passage)
        both.cancel()

    async def _down(
        self,
        client: ByteStream,
        server: ByteStream,
        passage: Passage,
        both: anyio.CancelScope,
    ) -> None:
        """Carry what the server answers."""
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for part in server:
                passage.is_answered = True
                match passage.fault:
                    case _ if passage.is_silent:
                        break
                    case Fault.RESET:
                        _reset_at_close(client)
                        break
                    case Fault.CUT:
                        await client.send(part[: len(part) // 2])
                        break
                    case Fault.LATE:
                        await anyio.sleep(self.late_s)
                    case _:
                        pass
                await _send(client, part, passage)
            await self._stay_silent(client, passage)
        both.cancel()

    async def _stay_silent(self, client: ByteStream, passage: Passage) -> None:
        if passage.is_silent or passage.fault is Fault.SILENT:
            await anyio.sleep(self.silent_s)
            _reset_at_close(client)


async def _send(to: ByteStream, part: bytes, passage: Passage) -> None:
    if passage.fault is not Fault.SLOW:
        await to.send(part)
        return
    for start in range(0, len(part), _SLOW_BYTES):
        await to.send(part[start : start + _SLOW_BYTES])
        await anyio.sleep(_SLOW_S)


def _reset_at_close(stream: ByteStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)
    with suppress(OSError):  # closed by its other end
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


@asynccontextmanager
async def net(
    to_port: int, plan: Plan = no_faults, *, silent_s: float = inf, late_s: float = 3.0
) -> AsyncIterator[Net]:
    """Run a proxy to a loopback port for the length of a block, on this loop and by its time."""
    proxy = Net(0, plan, silent_s, late_s)

    async def serve(client: ByteStream) -> None:
        await proxy.carry(client, to_port)

    async with tcp_server(serve) as proxy.port:
        yield proxy


@contextmanager
def net_of_its_own(
    to_port: int, plan: Plan = no_faults, *, silent_s: float = inf, late_s: float = 3.0
) -> Iterator[Net]:
    """Run such a proxy in a thread: who opens a database blocks."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            net(to_port, plan, silent_s=silent_s, late_s=late_s)
        ) as proxy,
    ):
        yield proxy


@define(kw_only=True)
class NetApart:
    """A net in a process of its own, for what is too much for the process of a test."""

    port: int
    process: subprocess.Popen[str]
    counts: dict[str, int] = field(factory=dict)
    """What befell how many exchanges, until it was turned on or off last."""

    def turn(self, on: bool) -> None:  # noqa: FBT001  # called in a thread
        """Begin with the faults, or leave off."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("on\n" if on else "off\n")
        self.process.stdin.flush()
        self.counts = json.loads(self.process.stdout.readline())


@contextmanager
def net_apart(
    to_port: int, seed: str, share: float, *, silent_s: float, late_s: float
) -> Iterator[NetApart]:
    """Run a net that troubles a share of the exchanges by a seed, for the length of a block; it begins turned off."""
    arguments = [seed, to_port, share, silent_s, late_s]
    with subprocess.Popen(
        [sys.executable, "-m", "support.net", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield NetApart(port=int(process.stdout.readline()), process=process)
        finally:
            process.kill()


async def _main(*arguments: str) -> None:
    seed, (to_port, share, silent_s, late_s) = arguments[0], map(float, arguments[1:])
    plan = AtRandom(random.Random(seed), share)
    async with net(int(to_port), plan, silent_s=silent_s, late_s=late_s) as proxy:
        print(proxy.port, flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            plan.is_on = line == "on\n"
            print(json.dumps(plan.counts), flush=True)


if __name__ == "__main__":
    anyio.run(_main, *sys.argv[1:])
