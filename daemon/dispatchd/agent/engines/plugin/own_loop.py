"""Event loop of an engine of a third party, in a thread of its own: what blocks, hangs or ends there holds up nobody else."""

import asyncio  # noqa: TID251  # a loop beside the program's own, which code of others may block, stop or close
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import structlog
from attrs import define, field

from dispatchd.agent.engines.plugin.texts import message_of, quoted, said
from dispatchd.concurrency.own_threads import NAME, until_done
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.protocol.times import duration

T = TypeVar("T")

_MOST_LEFT: Final = 32
"""Calls left behind that have not ended, at which no further one is made (count)."""


@define
class OwnLoop:
    """Carries out the calls of one engine. Whatever they raise becomes EngineSilent, if it isn't a refusal."""

    _engine: str
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    _left: set[Future[Any]] = field(factory=set, init=False)
    """Calls that continue, and that nobody waits for any more."""

    async def run(
        self, call: str, carried: Callable[[], Awaitable[T]], *, within_s: float
    ) -> T:
        """Return the answer to a call.

        One that takes too long, or whose caller is cancelled, is cancelled, and left behind if it continues all the same.

        Args:
            call: Name of the call.
            carried: The call.
            within_s: Longest time of it (seconds).

        Raises:
            EngineSilent: It took too long, or raised.
            EngineRefused: It refused.
        """
        about = f"{call} of the engine {self._engine}"
        if len(self._left) >= _MOST_LEFT:
            message = f"{about} was not made: {len(self._left)} earlier calls never ended; restart the daemon"
            raise EngineSilent(message)
        future: Future[T] = Future()
        task = _Task(about, carried, future)
        loop = self._running_loop()
        self._hand_over(loop, partial(task.begin, loop))
        try:
            with anyio.move_on_after(within_s):
                await until_done(future)
                return future.result()
        finally:
            # One that has not begun never does.
            if not future.cancel() and not future.done():
                self._left.add(future)
                future.add_done_callback(self._left.discard)
                self._hand_over(loop, task.cancel)
        message = f"{about} took more than {duration(within_s)}"
        raise EngineSilent(message)

    def _hand_over(
        self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]
    ) -> None:
        # A loop that is closed meanwhile never carries it out, and its caller hears of it by the time.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call, context=Context())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the engine's loop; a new one if it has closed the last one."""
        if self._loop is None or self._loop.is_closed():
            self._left.clear()
            self._loop = loop = asyncio.new_event_loop()
            loop.set_exception_handler(partial(_log_failure, self._engine))
            # The end of the program doesn't wait for it.
            threading.Thread(
                target=_keep_running,
                args=(loop,),
                name=f"{NAME}: engine {self._engine}",
                daemon=True,
            ).start()
        return self._loop


@define(eq=False)
class _Task:
    """One call, in the engine's own thread."""

    _about: str
    _carried: Callable[[], Awaitable[Any]]
    _future: Future[Any]
    _task: "asyncio.Task[None] | None" = field(default=None, init=False)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin it, unless nobody waits for it any more."""
        if self._future.set_running_or_notify_cancel():
            self._task = loop.create_task(self._work())
            self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        """Cancel it."""
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        answer: Any = None
        failure: EngineSilent | EngineRefused | None = None
        try:
            answer = await self._carried()
        except EngineRefused as error:
            failure = EngineRefused(message_of(error) or "it gives no reason")
        except EngineSilent as error:
            failure = EngineSilent(message_of(error) or "it gives no reason")
        except asyncio.CancelledError:
            failure = EngineSilent(f"{self._about} was cancelled within the engine")
        except BaseException as error:  # noqa: BLE001  # whatever code of others raises ends one call
            failure = EngineSilent(f"{self._about} raised {said(error)}")
        if failure is None:
            self._future.set_result(answer)
        else:
            self._future.set_exception(failure)

    def _settle(self, _: "asyncio.Task[None]") -> None:
        if not self._future.done():
            # It was cancelled before its first step.
            self._future.set_exception(EngineSilent(f"{self._about} was cancelled"))


def _keep_running(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is closed: SystemExit of one task, for instance, ends its run."""
    asyncio.set_event_loop(loop)
    while not loop.is_closed():
        with suppress(BaseException):
            loop.run_forever()


def _log_failure(
    engine: str, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    """Log the failure of something that no call waits for, such as a task of the engine's own."""
    error = context.get("exception")
    words = quoted(str(context.get("message")))
    reason = said(error) if isinstance(error, BaseException) else words
    structlog.get_logger().warning("engine_task_failed", engine=engine, reason=reason)
