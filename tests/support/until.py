"""Waiting for what nothing announces: the one place where tests look again and again."""

from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Any, TypeVar, overload

import anyio

from support.clock import within

T = TypeVar("T")

_EVERY_S = 0.01


@overload
async def until(
    look: Callable[[], Coroutine[Any, Any, T | None]],
    within_s: float = 30,
    what: object = None,
) -> T: ...
@overload
async def until(
    look: Callable[[], T | None], within_s: float = 30, what: object = None
) -> T: ...
async def until(
    look: Callable[[], Any], within_s: float = 30, what: object = None
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
