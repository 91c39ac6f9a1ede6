"""Time and randomness of a client, which tests bring along."""

import time
from collections.abc import Awaitable, Callable
from random import Random

import anyio
from attrs import field, frozen


@frozen(kw_only=True)
class Pace:
    """Time and randomness of a synchronous client."""

    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    """A clock that runs on (seconds)."""
    draw: Callable[[], float] = field(factory=lambda: Random().random)  # noqa: S311  # jitter is no secret
    """Random numbers from [0, 1)."""


@frozen(kw_only=True)
class AsyncPace:
    """Time and randomness of an asynchronous client."""

    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    now: Callable[[], float] = time.monotonic
    """A clock that runs on (seconds)."""
    draw: Callable[[], float] = field(factory=lambda: Random().random)  # noqa: S311  # as above
    """Random numbers from [0, 1)."""
