"""Threads that parse bodies: whoever is authenticated doesn't wait for strangers, and few strangers wait."""

from threading import Event

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatchd.hub.parsers import MOST_WAITING, Busy, parsed


async def test_nobody_who_is_authenticated_waits_for_strangers() -> None:
    is_over = Event()

    async def stranger() -> None:
        await parsed(is_over.wait, is_proven=False)

    try:
        async with anyio.create_task_group() as strangers:
            for _ in range(MOST_WAITING + 1):
                strangers.start_soon(stranger)
            await checkpoint()
            await checkpoint()

            with anyio.fail_after(5):
                assert await parsed(lambda: "proven", is_proven=True) == "proven"
            with pytest.raises(Busy, match="retry"):
                await parsed(is_over.wait, is_proven=False)
            is_over.set()
        assert await parsed(lambda: "later", is_proven=False) == "later"
    finally:
        is_over.set()
