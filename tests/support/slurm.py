"""A Slurm cluster of Debian's packages: one controller, two nodes and munge on loopback, in a folder of its own.

Facts from slurm.conf(5) and munged(8). No systemd, no database; the key, the state and the ports are the cluster's own.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio import to_thread
from attrs import define, field

from support.daemon import write_config
from support.torture import lasting_port
from support.until import until

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged")

_UP_S = 60.0
"""Longest time until both nodes are there (seconds)."""

_CONF = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
MinJobAge={min_job_age}
KillWait=2
MessageTimeout=4
SlurmdTimeout=30
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8
PartitionName=ci Nodes=n[1-2] Default=YES
"""


def missing() -> str:
    """Return why no cluster can be booted here; empty if one can."""
    programs = [name for name in _PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"needs Slurm ({', '.join(programs)} not found)"
    return "" if os.geteuid() == 0 else "needs root, to boot a cluster"


@define
class Cluster:
    """A booted cluster."""

    folder: Path
    _processes: dict[str, subprocess.Popen[bytes]] = field(factory=dict, init=False)

    @property
    def env(self) -> Mapping[str, str]:
        """What a client's environment needs."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def boot(self, min_job_age: int) -> None:
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        conf = self.folder / "slurm.conf"
        conf.write_text(
            _CONF.format(
                host=host,
                ports=_ports(3),
                folder=self.folder,
                min_job_age=min_job_age,
            )
        )
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {
            "key-file": "key",
            "socket": "sock",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [
            f"--{name}={self.folder}/munge.{ending}" for name, ending in files.items()
        ]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self.start_controller()
        for node in ("n1", "n2"):
            self._start(node, "slurmd", "-D", "-N", node)

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")

    def kill_controller(self) -> None:
        """Kill -9 the controller, and wait until it is gone."""
        self._processes["slurmctld"].kill()
        self._processes["slurmctld"].wait()

    def remember(self) -> None:
        """Keep a copy of what the controller has on disk, for `forget`."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        shutil.copytree(self.folder / "state", self.folder / "copy")

    def forget(self) -> None:
        """Kill the controller, and start it with what it knew at `remember`, as if nothing had been put since."""
        self.kill_controller()
        shutil.rmtree(self.folder / "state")
        shutil.copytree(self.folder / "copy", self.folder / "state")
        self.start_controller()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + _UP_S
        while self.run_now("sinfo", "-h", "-o", "%T %D").split() != ["idle", "2"]:
            assert time.monotonic() < deadline, "the nodes didn't come up"
            time.sleep(0.1)

    def run_now(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    async def run(self, *command: str) -> str:
        """Return what a client's command printed."""
        return await to_thread.run_sync(lambda: self.run_now(*command))

    async def jobs(self) -> list[tuple[str, str]]:
        """Return the name and the state of every job."""
        said = await self.run("squeue", "-h", "-a", "-t", "all", "-o", "%j %T")
        return [(name, state) for name, state in map(str.split, said.splitlines())]

    async def unheld(self) -> None:
        """Wait until no job is held."""

        async def look() -> bool:
            said = await self.run("squeue", "-h", "-a", "-t", "PENDING", "-o", "%r")
            return "JobHeldUser" not in said

        await until(look, 60, "no held job")

    def down(self) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                start_new_session=True,
            )


@contextmanager
def booted(min_job_age: int = 300) -> Iterator[Cluster]:
    """Boot a cluster for the length of a block; skip the test where that isn't possible."""
    if reason := missing():
        pytest.skip(reason)
    # The address of munge's socket has at most 107 bytes (unix(7)).
    with TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.boot(min_job_age)
            cluster.wait_until_up()
            yield cluster
        finally:
            cluster.down()


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
