"""A daemon whose workflows run on a cluster, with its endpoint, and what they have left."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread
from attrs import frozen

from support.daemon_process import DaemonProcess, running
from support.endpoint import Endpoint, endpoint
from support.slurm import Cluster, slurm_config
from support.slurm_steps import Steps
from support.until import until

WAITS = "echo ran >>{folder}/ran; trap 'echo term >>{folder}/term; exit 9' TERM; while ! [ -e {folder}/go ]; do sleep 0.1; done; exit 4"


@frozen
class Scene:
    """An endpoint, a daemon whose workflows run on a cluster, and what they have left."""

    folder: Path
    cloud: Endpoint
    daemon: DaemonProcess
    cluster: Cluster
    steps: Steps

    def hand_out(self, job_id: str, workflow: str, **more: Any) -> None:
        self.cloud.hand_out({"id": job_id, "dag_name": workflow, **more})

    async def finished(self, job_id: str) -> dict[str, Any]:
        (end,) = await self.cloud.until_finished(job_id, within_s=90)
        return end

    def go(self) -> None:
        (self.folder / "go").touch()

    @property
    def runs(self) -> int:
        ran = self.folder / "ran"
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    async def until_running(self) -> None:
        await until(lambda: self.runs, 60, "the command")

    def record(self, job_id: str) -> dict[str, Any]:
        path = self.daemon.state / "jobs" / f"{job_id}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    async def until_recorded(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's attempt to have its batch job, and return that."""

        def look() -> dict[str, Any] | None:
            attempts = self.record(job_id).get("attempts", [])
            return attempts[-1].get("batch_job") if attempts else None

        found = await until(look, 60, "the batch job's record")
        return dict(found or {})


@asynccontextmanager
async def scene(
    folder: Path,
    cluster: Cluster,
    workflows: Mapping[str, str],
    *,
    limits: str = "",
    engine: str = "",
) -> AsyncIterator[Scene]:
    """Run a daemon with workflows that are scripts, in which `{folder}` is the test's."""
    commands = {
        name: ["/bin/sh", "-c", script.replace("{folder}", str(folder))]
        for name, script in workflows.items()
    }
    steps = Steps.create(folder / "bin", cluster)
    async with endpoint() as cloud:
        config = slurm_config(folder, cloud.url, commands, limits=limits, engine=engine)
        with running(config, env=steps.env) as daemon:
            await daemon.until_logged("daemon_ready")
            yield Scene(folder, cloud, daemon, cluster, steps)
            await to_thread.run_sync(daemon.stop)
