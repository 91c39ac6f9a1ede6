"""Hubs of this and of other checkouts, each a process of its own, and lean clients for them.

Another checkout's hub runs with this interpreter and its libraries, and with that checkout's code.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from bench.harness import WAIT_S, wait_until

HERE: Final = Path(__file__).resolve().parents[1]
"""This checkout."""

CLIENTS: Final = 8
"""Clients that call at the same time, in two processes (count)."""

DISPATCH: Final = "/api/v1/github/dispatch"

ROW: Final = "x" * 1500
"""About the size of a job with its texts (bytes)."""


@frozen(kw_only=True)
class Served:
    """A running hub, with what a client needs for its calls."""

    url: str
    token: str
    pid: int
    machines: Sequence[Mapping[str, str]] = ()
    """Credentials of machines, one for each client: a second pull of one machine ends the first."""


@contextmanager
def served(
    folder: Path, database_url: str, *, checkout: Path = HERE, machines: int = CLIENTS
) -> Iterator[Served]:
    """Run a checkout's hub on a free loopback port, in a folder of its own."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(checkout / "daemon")}
    program = [sys.executable, "-m", "dispatchd", "hub"]
    init = ["--listen", "127.0.0.1:0", "--license-id", "bench"]
    subprocess.run(
        [*program, "init", *init, "--database-url", database_url, str(folder)],
        check=True,
        capture_output=True,
        env=environment,
    )
    config, port_file = folder / "hub.toml", folder / "port"
    text = config.read_text().replace("[queue]", "[queue]\nmost = 10000000")
    config.write_text(text)
    serve = ["serve", "--config", str(config), "--port-file", str(port_file)]
    process = subprocess.Popen(
        [*program, *serve], stdout=subprocess.DEVNULL, env=environment
    )
    try:
        wait_until(lambda: port_file.exists() and bool(port_file.read_text()))
        hub = Served(
            url=f"http://127.0.0.1:{port_file.read_text()}",
            token=(folder / "admin-token").read_text().strip(),
            pid=process.pid,
        )
        names = [f"machine-{number}" for number in range(machines)]
        credentials = [_added(Client(hub), name) for name in names]
        yield Served(
            url=hub.url, token=hub.token, pid=hub.pid, machines=tuple(credentials)
        )
    finally:
        process.terminate()
        process.wait(WAIT_S)


class Client:
    """One connection to a hub, with as little work for each call as Python allows."""

    def __init__(self, hub: Served) -> None:
        self._http = http.client.HTTPConnection(
            urlsplit(hub.url).netloc, timeout=2 * WAIT_S
        )
        self._headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {hub.token}",
        }

    def call(self, method: str, path: str, body: object = None) -> bytes:
        """Make a call, and return its answer.

        Raises:
            OSError: The hub has refused it.
        """
        text = None if body is None else json.dumps(body)
        self._http.request(method, path, text, self._headers)
        reply = self._http.getresponse()
        data = reply.read()
        if reply.status >= 400:
            message = f"{method} {path}: {reply.status} {data[:200]!r}"
            raise OSError(message)
        return data

    def submit(self, **document: object) -> None:
        """Queue a job."""
        body = {"dag_name": "it", "payload": {"text": ROW}, **document}
        self.call("POST", "/api/v1/jobs", body)

    def claim(self, machine: Mapping[str, str]) -> dict[str, Any]:
        """Claim a job; the queue must have one."""
        proof = {"heartbeat_secret": machine["secret"]}
        body = {**_identity(machine), **proof, "extensions": ["claim", "heartbeat"]}
        job: dict[str, Any] = json.loads(self.call("POST", f"{DISPATCH}/pull", body))
        return job

    def report(
        self,
        machine: Mapping[str, str],
        job: Mapping[str, Any],
        what: str,
        **more: str,
    ) -> None:
        """Report a claimed job: `accept`, `heartbeat` or `finish`."""
        proof = {"secret": machine["secret"], "claim_token": job["claim_token"]}
        body = {**_identity(machine), **proof, **more}
        self.call("POST", f"{DISPATCH}/{job['id']}/{what}", body)

    def cycle(self, machine: Mapping[str, str]) -> None:
        """Claim a job, accept and finish it."""
        job = self.claim(machine)
        self.report(machine, job, "accept", dag_run_id="r")
        self.report(machine, job, "finish", result_status="succeeded")


def _added(client: Client, name: str) -> dict[str, str]:
    body = {"name": name, "fixed_secret": True}
    added = json.loads(client.call("POST", "/api/v1/machines", body))
    return {"server_id": name, "secret": str(added["secret"])}


def _identity(machine: Mapping[str, str]) -> dict[str, str]:
    return {"license_id": "bench", "server_id": machine["server_id"]}


@frozen(kw_only=True)
class Rate:
    """Rate of a call, and what it costs."""

    per_s: float
    cpu_ms: float
    """CPU time of the hub for each (milliseconds)."""
    p99_ms: float


def rate(pool: ProcessPoolExecutor, hub: Served, what: str, calls: int) -> Rate:
    """Return the rate at which `CLIENTS` clients make calls at the same time, each as many as given."""
    half = CLIENTS // 2
    work = [(hub, what, calls, range(half)), (hub, what, calls, range(half, CLIENTS))]
    cpu, began = cpu_s(hub.pid), time.perf_counter()
    times = [took for part in pool.map(_half, work) for took in part]
    wall = time.perf_counter() - began
    return Rate(
        per_s=len(times) / wall,
        cpu_ms=1e3 * (cpu_s(hub.pid) - cpu) / len(times),
        p99_ms=1e3 * sorted(times)[int(0.99 * len(times))],
    )


def _half(work: tuple[Served, str, int, range]) -> list[float]:
    hub, what, calls, machines = work
    with ThreadPoolExecutor(len(machines)) as threads:
        parts = threads.map(lambda number: _calls(hub, what, calls, number), machines)
        return [took for part in parts for took in part]


def _calls(hub: Served, what: str, calls: int, number: int) -> list[float]:
    client, machine, times = Client(hub), hub.machines[number], list[float]()
    for _ in range(calls):
        began = time.perf_counter()
        if what == "submit":
            client.submit()
        elif what == "claim":
            client.claim(machine)
        else:
            client.cycle(machine)
        times.append(time.perf_counter() - began)
    return times


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process (seconds)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
