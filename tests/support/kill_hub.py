"""A hub that is killed with SIGKILL before a chosen step of what it is asked (tests/torture/kill_hub.c)."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from support.hub_process import HubProcess, hub
from support.torture import Sweep, lasting_port

MARK = "armed"
"""The file in the hub's folder as long as which is there steps count."""


class Arm(Protocol):
    """Makes a hub that is killed at a step of a sweep, in the folder `hub` of the test's own."""

    def __call__(
        self, sweep: Sweep, step: int, *, lease_s: float = 60, more: str = ""
    ) -> AbstractAsyncContextManager[HubProcess]: ...


@asynccontextmanager
async def armed(
    folder: Path,
    database_url: str,
    library: Path,
    step: int,
    *,
    lease_s: float = 60,
    more: str = "",
) -> AsyncIterator[HubProcess]:
    """Run a hub that is killed before its nth step from now on."""
    mark = folder / MARK
    env = {"LD_PRELOAD": str(library), "KILL_AT": str(step), "KILL_ARMED": str(mark)}
    # On a busy machine many a lease runs out before the hub is back.
    async with hub(
        folder,
        port=lasting_port(),
        lease_s=lease_s,
        patience_s=60,
        most_expiries=50,
        database_url=database_url,
        env=env,
        more=more,
    ) as server:
        mark.touch()
        yield server
