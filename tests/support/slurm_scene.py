"""A daemon whose workflows run on a cluster, with its endpoint, and what they have left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import to_thread
from attrs import frozen

from support.daemon_process import running
from support.endpoint import endpoint
from support.engine_scene import EngineScene, commands
from support.slurm import Cluster, slurm_config
from support.slurm_steps import Steps


@frozen
class Scene(EngineScene):
    """An endpoint, a daemon whose workflows run on a cluster, and what they have left."""

    cluster: Cluster
    steps: Steps


@asynccontextmanager
async def scene(
    folder: Path,
    cluster: Cluster,
    workflows: dict[str, str],
    *,
    limits: str = "",
    engine: str = "",
) -> AsyncIterator[Scene]:
    """Run a daemon with workflows that are scripts, in which `{folder}` is the test's."""
    steps = Steps.create(folder / "bin", cluster)
    async with endpoint() as cloud:
        config = slurm_config(
            folder,
            cloud.url,
            commands(folder, workflows),
            limits=limits,
            engine=engine,
        )
        with running(config, env=steps.env) as daemon:
            await daemon.until_logged("daemon_ready")
            yield Scene(folder, cloud, daemon, cluster, steps)
            await to_thread.run_sync(daemon.stop)
