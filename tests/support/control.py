"""Asking a daemon over its control socket, as tools do."""

from collections.abc import Callable
from typing import Any

from anyio import to_thread

from dispatchd.control.client import ask
from support.daemon import DaemonLog
from support.until import until


async def call(daemon: DaemonLog, method: str, path: str, body: Any = None) -> Any:
    """Return the answer to one call."""
    return await to_thread.run_sync(
        lambda: ask(daemon.state, method, path, body, cannot="test", timeout_s=10)
    )


async def until_status(
    daemon: DaemonLog, wanted: Callable[[Any], object], within_s: float = 30
) -> Any:
    """Return the status once it is as wanted."""

    async def look() -> Any:
        status = await call(daemon, "GET", "/v1/status")
        return status if wanted(status) else None

    return await until(look, within_s)
