"""Blocking calls that may hang forever: each in a thread of its own, which can be left behind.

A read on a dead network file system, or of a pipe that nothing writes to, can't be ended. A worker thread of
anyio is waited for when its task is cancelled, and when the program ends. A thread of this module is not. One whose
call has ended carries out another one, because the start of a thread keeps the event loop waiting.
"""

import os
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar, cast

import anyio
from anyio.lowlevel import current_token
from attrs import define, field
from typing_extensions import override

from dispatchd.protocol.times import duration

T = TypeVar("T")

NAME: Final = "own thread"
"""Beginning of the name of each thread while it has a call."""

_IDLE_NAME: Final = "idle thread"

_MOST_IDLE: Final = 8
"""Most threads that are kept for further calls (count)."""


@define
class OwnThreads:
    """Runs blocking calls, with at most one thread for each key.

    So a path that hangs costs one thread, however often it is used. For one event loop.
    """

    _running: dict[Hashable, Future[Any]] = field(factory=dict, init=False)

    async def run(
        self, key: Hashable, call: Callable[[], T], *, within_s: float | None
    ) -> T:
        """Return the result of a blocking call, or fail as it does.

        If an earlier call under this key is still running, this one waits for it and returns its result. A caller
        that is cancelled leaves the thread behind at once.

        Args:
            key: Subject of the call, which may hang: a path, for instance.
            call: The call.
            within_s: Longest wait for it (seconds); None: no limit.

        Raises:
            TimeoutError: It takes longer; its outcome is not known.
        """
        future = self._running.get(key)
        if future is None or future.done():
            future = self._running[key] = _begin(f"{NAME}: {key}", call)
        with anyio.move_on_after(within_s) as scope:
            await until_done(future)
        if within_s is not None and scope.cancelled_caught:
            message = f"no answer within {duration(within_s)}"
            raise TimeoutError(message)
        if self._running.get(key) is future:
            del self._running[key]
        return cast("T", future.result())


class _Worker(threading.Thread):
    """Thread that carries out one call after another, for as long as none hangs."""

    idle: Final[list["_Worker"]] = []
    """Those without a call, of the whole process."""
    guard: Final = threading.Lock()

    def __init__(self) -> None:
        # The end of the program doesn't wait for it.
        super().__init__(daemon=True)
        self._calls = SimpleQueue[Callable[[], Callable[[], None]]]()

    def carry_out(self, name: str, call: Callable[[], Callable[[], None]]) -> None:
        """Begin a call, which raises nothing, and returns the call that publishes its result."""
        self.name = name
        self._calls.put(call)

    @override
    def run(self) -> None:
        while True:
            publish = self._calls.get()()
            # Before: whoever gets the result may end the program (`end_if_left`).
            self.name = _IDLE_NAME
            publish()
            del publish
            with self.guard:
                if len(self.idle) >= _MOST_IDLE:
                    return
                self.idle.append(self)


def _begin(name: str, call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    context = copy_context()

    def work() -> Callable[[], None]:
        try:
            result = context.run(call)
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            return partial(future.set_exception, error)
        return partial(future.set_result, result)

    try:
        worker = _Worker.idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.carry_out(name, work)
    return future


async def until_done(future: Future[Any]) -> None:
    """Wait until another thread has settled a future."""
    here, done, is_awaited = threading.get_ident(), anyio.Event(), True
    # Asyncio's, the only one that the programs run on.
    loop: Any = current_token().native_token

    def tell(_: Future[Any]) -> None:
        if threading.get_ident() == here:
            done.set()
        elif is_awaited:
            # The caller may be gone, and the loop with it.
            with suppress(RuntimeError):
                # Unlike anyio's own ways back it waits for nothing: the thread is free at once.
                loop.call_soon_threadsafe(done.set)

    future.add_done_callback(tell)
    try:
        await done.wait()
    finally:
        is_awaited = False


def end_if_left(code: int) -> None:
    """End the process at once, with an exit code, if a thread was left behind.

    An ordinary end cleans up what such a thread may be using: OpenSSL, while it loads certificates, would crash.
    """
    if any(thread.name.startswith(NAME) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
