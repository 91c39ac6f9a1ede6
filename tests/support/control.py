"""Asking a daemon over its control socket, as tools do."""

from collections.abc import Callable
from typing import Any

from anyio import to_thread

from dispatchd.agent.control.client import ask
from support.clock import advance
from support.daemon import DaemonLog
from support.until import until


async def call(daemon: DaemonLog, method: str, path: str, body: Any = None) -> Any:
    """Return the answer to one call."""
    return await to_thread.run_sync(
        lambda: ask(daemon.state, method, path, body, cannot="test", timeout_s=10)
    )


async def until_status(
    daemon: DaemonLog,
    condition: Callable[[Any], object],
    within_s: float = 30,
    *,
    skip_s: float = 0,
) -> Any:
    """Return the status once it is as wanted; before each look, time moves forward by `skip_s` seconds."""

    async def look() -> Any:
        if skip_s:
            await advance(skip_s)
        status = await call(daemon, "GET", "/v1/status")
        return status if condition(status) else None

    return await until(look, within_s)
