"""Waits of a daemon before another try: they pass at once."""

from typing import Any

from support.clock import advance
from support.daemon import DaemonHere
from support.endpoint import Endpoint
from support.until import until

_ROUNDED_S = 0.05
"""By how much the log rounds a wait (seconds), at most."""


async def finishes(
    hub: Endpoint, daemon: DaemonHere, *job_ids: str, within_s: float = 30
) -> list[dict[str, Any]]:
    """Return how jobs were finished, moving time past each wait that the daemon's log names."""
    passed = 0

    async def look() -> bool:
        nonlocal passed
        waits = [line["retry_in_s"] for line in daemon.log() if "retry_in_s" in line]
        for wait_s in waits[passed:]:
            await advance(wait_s + _ROUNDED_S)
        passed = len(waits)
        return all(job_id in hub.finished for job_id in job_ids)

    await until(look, within_s, f"finishes of {job_ids}")
    return [hub.finished[job_id] for job_id in job_ids]
