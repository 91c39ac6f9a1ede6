"""Time under test: an event loop whose clock a test moves forward, and deadlines that stay real."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from typing import cast

import anyio
from anyio import to_thread
from typing_extensions import override

_MOMENT_S = 0.2
"""Longest wait for a thread at work (seconds): one may hang, as some tests want it."""


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time runs as usual and can be moved forward at once.

    Every sleep, time limit and deadline of anyio counts by the loop's time, so moving it forward by a minute makes
    due what is due in a minute. Sockets, processes and threads are real and take the time that they take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped_s = 0.0
        self.real: set[anyio.CancelScope] = set()
        """Deadlines of tests, which don't move."""
        self.others = {each for each in threading.enumerate() if _is_busy(each)}
        """Threads of earlier tests; one that hangs never ends."""

    @override
    def time(self) -> float:
        return super().time() + self.skipped_s

    def skip(self, seconds: float) -> None:
        """Move the time forward."""
        self.skipped_s += seconds
        for scope in self.real:
            scope.deadline += seconds
        # Timers are looked at when the loop next goes round.
        self.call_soon(lambda: None)


def loop() -> SkippingLoop:
    """Return the loop of this test."""
    return cast("SkippingLoop", asyncio.get_running_loop())


async def advance(seconds: float) -> None:
    """Move time forward for this test's loop, hubs and daemons; what becomes due at once has begun on return.

    On a busy machine moved time would outrun a thread that is at work, so each has a moment for that before.
    """
    until = time.monotonic() + _MOMENT_S
    while _at_work() and time.monotonic() < until:
        await anyio.sleep(0.001)
    loop().skip(seconds)
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


async def threads_are_idle() -> None:
    """Wait until no thread is at work for this loop."""
    with within(60):
        while _at_work():
            await anyio.sleep(0.001)


def _at_work() -> bool:
    """Return whether a thread is at work for this loop: a worker of anyio, or one of `concurrency.own_threads`."""
    return bool(to_thread.current_default_thread_limiter().borrowed_tokens) or any(
        _is_busy(thread) for thread in set(threading.enumerate()) - loop().others
    )


def _is_busy(thread: threading.Thread) -> bool:
    return thread.name.startswith("own thread")


async def pass_ticks() -> None:
    """Move time on to where a uvicorn that has to stop looks for that, and then for the end of its connections."""
    for _ in range(2):
        await advance(0)
        await advance(0.1)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if a block takes longer in real time (seconds), whatever `advance` does."""
    skipping = loop()
    with anyio.fail_after(seconds) as scope:
        skipping.real.add(scope)
        try:
            yield
        finally:
            skipping.real.discard(scope)


class LongPauses(Random):
    """Jitter that leaves every pause almost as long as it may be, for a test that looks at what happens in one."""

    @override
    def random(self) -> float:
        return 0.99


class LoopTime:
    """The clocks of a machine, moved forward with a loop; a test may also set the wall clock."""

    def __init__(self, skipping: SkippingLoop) -> None:
        self._loop = skipping
        self.wall_set_by_s = 0.0
        """How far somebody has set the wall clock (seconds)."""

    def wall(self) -> float:
        return time.time() + self._loop.skipped_s + self.wall_set_by_s

    def now(self) -> str:
        """Return the time on the timeline that nobody sets, as records have it."""
        seconds = time.time() + self._loop.skipped_s
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    def since_boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self._loop.skipped_s

    def monotonic(self) -> float:
        return self._loop.time()
