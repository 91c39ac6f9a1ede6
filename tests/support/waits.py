"""Waits of a daemon before another try: they pass at once."""

from typing import Any

from support.clock import advance
from support.daemon import DaemonHere
from support.endpoint import Endpoint
from support.until import until

_STEPS = 20
"""Steps in which a wait passes (count)."""

_SHORTEST_S = 0.05
"""Shortest step (seconds): a wait that was logged as 0 may be as long."""


async def finishes(
    hub: Endpoint, daemon: DaemonHere, *job_ids: str, within_s: float = 30
) -> list[dict[str, Any]]:
    """Return how jobs were finished, moving time through each wait that the daemon's log names.

    In steps: a wait may begin after it was logged, and a call must not run out of time.
    """

    async def look() -> bool:
        waits = [line["retry_in_s"] for line in daemon.log() if "retry_in_s" in line]
        if waits:
            await advance(max(waits[-1] / _STEPS, _SHORTEST_S))
        return all(job_id in hub.finished for job_id in job_ids)

    await until(look, within_s, f"finishes of {job_ids}")
    return [hub.finished[job_id] for job_id in job_ids]
