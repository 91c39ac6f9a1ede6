"""The Slurm cluster of bench/slurm.py for a test, which is skipped where none can be booted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio import to_thread
from attrs import define
from bench import slurm

from support.daemon import write_config
from support.torture import lasting_port
from support.until import until


@define
class Cluster(slurm.Cluster):
    """A booted cluster."""

    async def run(self, *command: str) -> str:
        """Return what a client's command printed."""
        return await to_thread.run_sync(lambda: self.run_now(*command))

    async def jobs(self) -> list[tuple[str, str]]:
        """Return the name and the state of every job."""
        said = await self.run("squeue", "-h", "-a", "-t", "all", "-o", "%j %T")
        return [(name, state) for name, state in map(str.split, said.splitlines())]

    async def unheld(self, name: str = "dd-") -> None:
        """Wait until no job is held of the daemon that gave this name. A killed daemon of an earlier test may leave others."""
        daemon, _, _ = name.rpartition("-")

        async def look() -> bool:
            said = await self.run("squeue", "-h", "-a", "-t", "PENDING", "-o", "%j %r")
            own = [line for line in said.splitlines() if line.startswith(f"{daemon}-")]
            return not any("JobHeldUser" in line for line in own)

        await until(look, 180, "no held job")


@contextmanager
def booted(min_job_age: int = 300) -> Iterator[Cluster]:
    """Boot a cluster for the length of a block; skip the test where that isn't possible."""
    if reason := slurm.missing():
        pytest.skip(reason)
    # The address of munge's socket has at most 107 bytes (unix(7)).
    with TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder))
        with slurm.running(cluster, _ports(slurm.PORTS), min_job_age):
            yield cluster


def slurm_config(
    folder: Path,
    url: str,
    workflows: Mapping[str, list[str]],
    *,
    limits: str = "",
    engine: str = "",
) -> Path:
    """Write the configuration of a daemon whose workflows run on a cluster."""
    file = write_config(
        folder,
        url,
        workflows,
        limits=f'engine = "hpc"\n{limits}',
        runs="inactivity_s = 0\nretry_wait_s = 0.1",
    )
    with file.open("a") as text:
        text.write(f'\n[engines.hpc]\nkind = "slurm"\npoll_s = 1\n{engine}\n')
    return file


def _ports(count: int) -> list[int]:
    """Return ports that no other test gets before the cluster has them."""
    ports = set[int]()
    while len(ports) < count:
        ports.add(lasting_port())
    return list(ports)
