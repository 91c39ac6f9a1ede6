"""Asking a daemon over its control socket, as tools do."""

from collections.abc import Callable
from typing import Any

import anyio
from anyio import to_thread

from dispatchd.control.client import ask
from support.daemon_process import DaemonProcess


async def call(daemon: DaemonProcess, method: str, path: str, body: Any = None) -> Any:
    """Return the answer to one call."""
    return await to_thread.run_sync(
        lambda: ask(daemon.state, method, path, body, cannot="test", timeout_s=10)
    )


async def until_status(
    daemon: DaemonProcess, wanted: Callable[[Any], object], within_s: float = 30
) -> Any:
    """Return the status once it is as wanted."""
    with anyio.fail_after(within_s):
        while True:
            status = await call(daemon, "GET", "/v1/status")
            if wanted(status):
                return status
            # A status is a moment's: nothing announces that ages grow.
            await anyio.sleep(0.05)
