"""Threads that parse large request bodies. No authenticated sender waits for one who isn't."""

from collections.abc import Callable
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from dispatchd.errors import DispatchdError

T = TypeVar("T")

_PARSERS: Final = 1
"""Most bodies of each kind of sender that are parsed at the same time (count): each delays the event loop, which needs
the interpreter, too."""

MOST_WAITING: Final = 10
"""Most bodies of senders who are not authenticated that wait for the thread (count): no connection that waits for it is
cut off, so more of them would keep others out."""

_threads: Final[dict[bool, RunVar[CapacityLimiter]]] = {
    True: RunVar("parsers of authenticated senders"),
    False: RunVar("parsers of other senders"),
}
"""Limits of the threads, by whether a sender is authenticated."""


class Busy(DispatchdError):
    """Too many bodies of senders who are not authenticated."""


async def parsed(parse: Callable[[], T], *, is_proven: bool) -> T:
    """Return the result of a parser that runs in a thread.

    Args:
        parse: The parser.
        is_proven: True if the sender is authenticated.

    Raises:
        Busy: Too many others wait who aren't authenticated either.
    """
    limits = _threads[is_proven]
    limiter = limits.get(None) or CapacityLimiter(_PARSERS)
    limits.set(limiter)
    if not is_proven and limiter.statistics().tasks_waiting >= MOST_WAITING:
        message = "too many large bodies at once; begin with the credentials, or retry"
        raise Busy(message)
    return await to_thread.run_sync(parse, limiter=limiter)
