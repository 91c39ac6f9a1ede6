"""Waiting for what nothing announces: the one place where tests look again and again."""

from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Any, TypeVar, overload

import anyio

from support.clock import advance, within

T = TypeVar("T")

_EVERY_S = 0.01

_STEP_S = 0.5
"""How far a look moves time on: the deadlines of calls are far longer (seconds)."""


@overload
async def until(
    look: Callable[[], Coroutine[Any, Any, T | None]],
    within_s: float = 60,
    what: object = None,
) -> T: ...
@overload
async def until(
    look: Callable[[], T | None], within_s: float = 60, what: object = None
) -> T: ...
async def until(
    look: Callable[[], Any], within_s: float = 60, what: object = None
) -> Any:
    """Return what a look returns once that is true.

    Fails with AssertionError after `within_s` seconds of real time; `what` says what was waited for.
    """
    last: object = None
    try:
        with within(within_s):
            while True:
                seen = look()
                last = await seen if isawaitable(seen) else seen
                if last:
                    return last
                # What another process does is announced by nothing.
                await anyio.sleep(_EVERY_S)
    except TimeoutError:
        message = f"not within {within_s} s: {what or look}; last: {last!r}"
        raise AssertionError(message) from None


async def in_time(
    look: Callable[[], object],
    *,
    is_idle: Callable[[], bool] = lambda: True,
    within_s: float = 60,
) -> None:
    """Return once a look returns something true that comes with time: each look that doesn't moves time on.

    Time stands still while nothing `is_idle`, so that no deadline of a call in progress passes.
    """

    async def look_or_wait() -> object:
        seen = look()
        seen = await seen if isawaitable(seen) else seen
        if not seen and is_idle():
            await advance(_STEP_S)
        return seen

    await until(look_or_wait, within_s, look)
