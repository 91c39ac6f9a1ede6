"""A Slurm cluster of Debian's packages for tests and benchmarks: one controller, two nodes and munge on loopback.

Facts from slurm.conf(5) and munged(8). No systemd, no database; the key, the state and the ports are the cluster's own.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import define, field

CONTROLLER: Final = "slurmctld"
NODES: Final = ("n1", "n2")
PORTS: Final = 1 + len(NODES)
"""Ports that a cluster needs (count)."""

_PROGRAMS: Final = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged")

_PATH: Final = f"{os.defpath}:/usr/sbin:/sbin"

_UP_S: Final = 60.0
"""Longest time until both nodes are there (seconds)."""

_CONF: Final = """
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
    programs = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
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
        """Environment of its programs and clients."""
        return {"PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def boot(self, ports: Sequence[int], min_job_age: int) -> None:
        """Start everything; ended jobs are known for `min_job_age` seconds."""
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        conf = self.folder / "slurm.conf"
        conf.write_text(
            _CONF.format(
                host=host,
                ports=ports,
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
        for node in NODES:
            self.start_node(node)

    def start_controller(self) -> None:
        """Start the controller."""
        self._start(CONTROLLER, "slurmctld", "-D")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._start(name, "slurmd", "-D", "-N", name)

    def kill(self, name: str) -> None:
        """Kill -9 the controller or the slurmd of a node, and wait until it is gone. Jobs on the node live on."""
        self._processes[name].kill()
        self._processes[name].wait()

    def lose(self, node: str) -> None:
        """Kill -9 a node's slurmd and all that it has started, as if the node had lost its power."""
        self.kill(node)
        marks = {
            f"SLURMD_NODENAME={node}".encode(),
            f"SLURM_CONF={self.folder}/slurm.conf".encode(),
        }
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((process / "environ").read_bytes().split(b"\0")):
                    parent = _parent(process)
                    # First the slurmstepd, which would tell.
                    if (parent / "comm").read_text() == "slurmstepd\n":
                        os.kill(int(parent.name), signal.SIGKILL)
                    os.kill(int(process.name), signal.SIGKILL)

    def kill_controller(self) -> None:
        """Kill -9 the controller, and wait until it is gone."""
        self.kill(CONTROLLER)

    def remember(self) -> None:
        """Keep a copy of what the controller has on disk, for `forget`; it may be at work on it."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        # It writes each file under another name, and renames it.
        with suppress(shutil.Error):
            shutil.copytree(self.folder / "state", copy)

    def restore(self) -> None:
        """Give a controller that is down what it knew at `remember`, as if nothing had been put since."""
        self.wipe()
        shutil.copytree(self.folder / "copy", self.folder / "state", dirs_exist_ok=True)

    def wipe(self) -> None:
        """Take from a controller that is down all that it knew."""
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()

    def forget(self) -> None:
        """Kill the controller, and start it with what it knew at `remember`."""
        self.kill_controller()
        self.restore()
        self.start_controller()

    def wait_until_up(self) -> None:
        """Wait until both nodes are idle."""
        deadline = time.monotonic() + _UP_S
        while self.run_now("sinfo", "-h", "-o", "%T %D").split() != ["idle", "2"]:
            assert time.monotonic() < deadline, "the nodes didn't come up"
            time.sleep(0.1)

    def run_now(self, *command: str) -> str:
        """Return what a client's command printed."""
        done = subprocess.run(
            command,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    def down(self) -> None:
        """End everything."""
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
                env=self.env,
                start_new_session=True,
            )


def _parent(process: Path) -> Path:
    """Return the folder of a process's parent in /proc (field 4 of proc_pid_stat(5))."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return process.parent / fields[1]


@contextmanager
def running(cluster: Cluster, ports: Sequence[int], min_job_age: int) -> Iterator[None]:
    """Boot a cluster for the length of a block, on free ports."""
    try:
        cluster.boot(ports, min_job_age)
        cluster.wait_until_up()
        yield
    finally:
        cluster.down()
