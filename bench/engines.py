"""Many Slurm jobs of one daemon: time to submit and release all, then an idle queue, then the ends of all.

`python -m bench.engines --jobs 1000 --watch 600`. Needs Slurm and root, as the tests do: the cluster is of this bench.
Calls to the controller are those that it counts itself (sdiag(1)). The endpoint grants no leases: heartbeats belong to
`idle` and `polls`, and would hide what the engine takes.
"""

import argparse
import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from attrs import define, field
from typing_extensions import override

from bench.agents import tree_cpu_s
from bench.harness import IDENTITY, SECRET, daemon
from bench.idle import clean_install, resident_mib
from bench.slurm import PORTS, Cluster, missing, running

_DAY_S: Final = 86400.0
_SETTLED_S: Final = 600.0
"""Longest time for all jobs to get somewhere (seconds)."""

_CALLS: Final = re.compile(
    r"^\s(REQUEST_\w+|MESSAGE_\w+)\s.*?count:([0-9]+)", re.MULTILINE
)


@define
class Endpoint:
    """The least endpoint: hands jobs out, takes accepts and finishes, holds a pull while it has none."""

    url: str = field(default="", init=False)
    jobs: SimpleQueue[str] = field(factory=SimpleQueue, init=False)
    finished: set[str] = field(factory=set, init=False)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Serve for the length of a block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(
        self,
        endpoint: Endpoint,
        request: socket.socket,
        address: tuple[str, int],
        server: ThreadingHTTPServer,
    ) -> None:
        self._endpoint = endpoint
        super().__init__(request, address, server)

    def do_POST(self) -> None:
        """Answer a call."""
        self.rfile.read(int(self.headers["content-length"]))
        *_, job_id, call = self.path.split("/")
        if call == "pull":
            self._pull()
            return
        if call == "finish":
            self._endpoint.finished.add(job_id)
        self._answer(204, b"")

    def _pull(self) -> None:
        hold = self.headers.get("prefer", "wait=0").removeprefix("wait=")
        try:
            job_id = self._endpoint.jobs.get(timeout=float(hold))
        except Empty:
            self._answer(204, b"", hold)
            return
        job = {"id": job_id, "dag_name": "it", "payload": {"job": job_id}}
        self._answer(200, json.dumps(job).encode(), hold)

    def _answer(self, status: int, body: bytes, hold: str = "") -> None:
        self.send_response(status)
        if hold:
            self.send_header("preference-applied", f"wait={hold}")
        if body:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, *_: object) -> None:
        pass


@define
class Bench:
    """A cluster, an endpoint, a daemon, and the number of its jobs."""

    cluster: Cluster
    endpoint: Endpoint
    pid: int
    jobs: int

    def waiting(self) -> int:
        """Return the number of jobs in the queue that are released."""
        listing = self.cluster.run_now("squeue", "-h", "-a", "-t", "PD", "-o", "%r")
        return sum(reason != "JobHeldUser" for reason in listing.splitlines())

    def calls(self) -> dict[str, int]:
        """Return how often each call was made since the last `forget_calls`."""
        found = _CALLS.findall(self.cluster.run_now("sdiag"))
        return {name: int(count) for name, count in found}

    def forget_calls(self) -> None:
        """Count calls from now."""
        self.cluster.run_now("sdiag", "--reset")

    def open(self, state: str) -> None:
        """Let jobs of the queue begin (UP), or wait (DOWN)."""
        self.cluster.run_now("scontrol", "update", "PartitionName=ci", f"State={state}")

    def show(self, what: str, took_s: float, cpu_s: float) -> None:
        """Print the figures of a phase."""
        calls = ", ".join(
            f"{name.removeprefix('REQUEST_').lower()} {count}"
            for name, count in sorted(self.calls().items())
            if name in _TOLD
        )
        print(
            f"  {what:26} {took_s:7.1f} s   processor time {cpu_s:6.2f} s"
            f"   memory {resident_mib(self.pid):5.1f} MiB   calls: {calls}",
            flush=True,
        )


_TOLD: Final = (
    "REQUEST_JOB_INFO",
    "REQUEST_SUBMIT_BATCH_JOB",
    "REQUEST_UPDATE_JOB",
    "REQUEST_KILL_JOB",
)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--watch", type=float, default=600.0, help="seconds")
    given = parser.parse_args()
    if reason := missing():
        print(f"slurm: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        path, endpoint = Path(name), Endpoint()
        cluster = Cluster(path)
        with running(cluster, _ports(), 300), endpoint.served():
            config, python = (
                _config(path, endpoint.url, given.jobs),
                clean_install(path),
            )
            with daemon(config, python, cluster.env) as process:
                measure(Bench(cluster, endpoint, process.pid, given.jobs), given.watch)


def measure(bench: Bench, watch_s: float) -> None:
    """Submit, watch, and let all run."""
    print(f"Slurm, {bench.jobs} jobs of one daemon")
    _until(
        lambda: bench.cluster.folder.joinpath("state-of-daemon/control.sock").exists()
    )
    bench.open("DOWN")
    with _phase(bench, "submit and release all"):
        for number in range(bench.jobs):
            bench.endpoint.jobs.put(f"job-{number}")
        _until(lambda: bench.waiting() == bench.jobs)
    before_s = tree_cpu_s(bench.pid)
    with _phase(bench, "all wait"):
        time.sleep(watch_s)
    used_s = tree_cpu_s(bench.pid) - before_s
    listings = bench.calls().get("REQUEST_JOB_INFO", 0)
    print(
        f"  one squeue in {watch_s / max(1, listings):.1f} s (aim: 30 or more);"
        f" processor time of a day by extrapolation {used_s * _DAY_S / watch_s:.0f} s (aim: 60 or less)"
    )
    bench.open("UP")
    with _phase(bench, "all run, and are reported"):
        _until(lambda: len(bench.endpoint.finished) == bench.jobs)


@contextmanager
def _phase(bench: Bench, what: str) -> Iterator[None]:
    bench.forget_calls()
    began, before_s = time.monotonic(), tree_cpu_s(bench.pid)
    yield
    bench.show(what, time.monotonic() - began, tree_cpu_s(bench.pid) - before_s)


def _config(path: Path, url: str, jobs: int) -> Path:
    secret = path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    file = path / "config.toml"
    file.write_text(
        f"""
[cloud]
url = "{url}"
license_id = "{IDENTITY["license_id"]}"
server_id = "{IDENTITY["server_id"]}"
secret_file = "secret"
[store]
folder = "state-of-daemon"
min_free_mib = 0
[runs]
isolation = "none"
[log]
level = "warning"
[engines.hpc]
kind = "slurm"
slots = {jobs}
[workflows.it]
command = ["/bin/true"]
engine = "hpc"
"""
    )
    return file


def _ports() -> list[int]:
    """Return free ports; nothing else is started on this machine meanwhile."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(PORTS)]
    ports = [each.getsockname()[1] for each in opened]
    for each in opened:
        each.close()
    return ports


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLED_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.5)


if __name__ == "__main__":
    main()
