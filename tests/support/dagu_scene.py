"""A daemon whose workflows run on a Dagu server behind a proxy, with its endpoint, and what they have left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread
from attrs import frozen

from support.daemon_process import running
from support.dagu import Dagu, dagu_config, running_dagu
from support.endpoint import endpoint
from support.engine_scene import EngineScene, commands
from support.front import Front, front


@frozen
class Scene(EngineScene):
    """An endpoint, a daemon, a server, a proxy between these two, and what the runs have left."""

    dagu: Dagu
    front: Front


@asynccontextmanager
async def scene(
    folder: Path,
    workflows: dict[str, str],
    *,
    limits: str = "",
    engine: str = "",
    **dagu_options: Any,
) -> AsyncIterator[Scene]:
    """Run a daemon with workflows that are scripts, in which `{folder}` is the test's."""
    async with (
        running_dagu(folder / "dagu", folder / "state", **dagu_options) as dagu,
        front(dagu.origin) as between,
        endpoint() as cloud,
    ):
        config = dagu_config(
            folder,
            cloud.url,
            commands(folder, workflows),
            between.url,
            dagu.key,
            limits=limits,
            engine=engine,
        )
        with running(config) as daemon:
            await daemon.until_logged("daemon_ready")
            yield Scene(folder, cloud, daemon, dagu, between)
            await to_thread.run_sync(daemon.stop)
