"""Waits for the writer of SQLite (`writer.py`): a call whose turn doesn't come in time is not made."""

import asyncio  # noqa: TID251  # only its loop takes a call from a thread that waits for no answer
import time
from concurrent.futures import Future, wait
from typing import Final, TypeVar

import anyio

from dispatchd.hub.domain.errors import StorageBusy

T = TypeVar("T")

BUSY_S: Final = 5.0
"""Longest wait of a call for SQLite, or for one of the connections (seconds)."""


def settled(future: Future[T]) -> T:
    """Return what a call of the writer returns. Blocks.

    Raises:
        StorageBusy: Its turn has not come in time, and will not come.
    """
    wait([future], timeout=BUSY_S)
    _require_turn(future)
    return future.result()


async def awaited(future: Future[T]) -> T:
    """Return what a call of the writer returns.

    If the caller is cancelled, the call is not made, or has ended on return.

    Raises:
        StorageBusy: Its turn has not come in time, and will not come.
    """
    is_over, loop = anyio.Event(), asyncio.get_running_loop()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(is_over.set))
    until = time.monotonic() + BUSY_S  # of this one wait
    try:
        # By the real time, which the disk takes.
        while not is_over.is_set() and (left_s := until - time.monotonic()) > 0:
            with anyio.move_on_after(left_s):
                await is_over.wait()
        _require_turn(future)
    finally:
        if not future.cancel():
            with anyio.CancelScope(shield=True):
                await is_over.wait()
    return future.result()


def _require_turn(future: Future[T]) -> None:
    """Check that a call has begun; else withdraw it.

    Raises:
        StorageBusy: It had not.
    """
    if future.cancel():
        message = f"others have used it for {BUSY_S:g} s"
        raise StorageBusy(message)
