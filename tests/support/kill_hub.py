"""A hub that is killed with SIGKILL before a chosen step of what it is asked (tests/torture/kill_hub.c)."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from support.hub_process import HubProcess, hub
from support.torture import Sweep, lasting_port

MARK = "armed"
"""The file in the hub's folder as long as which is there steps count."""

CLOCK = "clock"
"""The file in the hub's folder whose time is the hub's, if its clock stands."""

_AT = "KILL_AT"


class Arm(Protocol):
    """Makes a hub that is killed at a step of a sweep, in the folder `hub` of the test's own."""

    def __call__(
        self,
        sweep: Sweep,
        step: int,
        *,
        lease_s: float = 60,
        clock_stands: bool = False,
        counts: bool = True,
        more: str = "",
    ) -> AbstractAsyncContextManager[HubProcess]: ...


def spare(server: HubProcess) -> None:
    """Let a hub live from its next start on."""
    server.env = {k: v for k, v in server.env.items() if k != _AT}


def move_clock(server: HubProcess, seconds: float) -> None:
    """Move a hub's clock that stands."""
    clock = server.folder / CLOCK
    at_s = clock.stat().st_mtime + seconds
    os.utime(clock, (at_s, at_s))


@asynccontextmanager
async def armed(
    folder: Path,
    database_url: str,
    library: Path,
    step: int,
    *,
    lease_s: float = 60,
    clock_stands: bool = False,
    counts: bool = True,
    more: str = "",
) -> AsyncIterator[HubProcess]:
    """Run a hub that is killed before its nth step: from now on, or from when the test makes the mark."""
    mark = folder / MARK
    env = {"LD_PRELOAD": str(library), _AT: str(step), "KILL_ARMED": str(mark)}
    if clock_stands:
        clock = folder / CLOCK
        folder.mkdir(parents=True, exist_ok=True)
        clock.touch()
        env["KILL_CLOCK"] = str(clock)
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
        if counts:
            mark.touch()
        yield server
