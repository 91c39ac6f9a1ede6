"""A hub that is killed with SIGKILL before a chosen step of what it is asked (tests/torture/kill_hub.c)."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from support.hub_process import HubProcess, hub
from support.torture import Sweep, lasting_port

MARK = "armed"
"""The file in the hub's folder as long as which is there steps count."""

_AT = "KILL_AT"


class Arm(Protocol):
    """Makes a hub that is killed at a step of a sweep, in the folder `hub` of the test's own."""

    def __call__(
        self,
        sweep: Sweep,
        step: int,
        *,
        lease_s: float = 60,
        counts: bool = True,
        more: str = "",
    ) -> AbstractAsyncContextManager[HubProcess]: ...


def spare(server: HubProcess) -> None:
    """Let a hub live from its next start on."""
    server.env = {k: v for k, v in server.env.items() if k != _AT}


@asynccontextmanager
async def armed(
    folder: Path,
    database_url: str,
    library: Path,
    step: int,
    *,
    lease_s: float = 60,
    counts: bool = True,
    more: str = "",
) -> AsyncIterator[HubProcess]:
    """Run a hub that is killed before its nth step: from now on, or from when the test makes the mark."""
    mark = folder / MARK
    env = {"LD_PRELOAD": str(library), _AT: str(step), "KILL_ARMED": str(mark)}
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
