"""A hub and a daemon as processes in a temporary folder, and the arithmetic that several benchmarks share."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, Generic, Protocol, TypeVar

import httpx
from attrs import frozen

from dispatchd.hub.api.machines import invited
from dispatchd.hub.init import init
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore

SECRET: Final = "bench-secret"
IDENTITY: Final = {"license_id": "bench", "server_id": "machine"}
WAIT_S: Final = 60
"""Longest wait for one event (seconds)."""

ROUNDS: Final = 3
"""Rounds of a comparison (count)."""


class Named(Protocol):
    """Something with a name for the figures."""

    name: str


A = TypeVar("A", bound=Named)
T = TypeVar("T")


@frozen
class Hub:
    """A running hub, and a client for it."""

    url: str
    http: httpx.Client
    pid: int

    def submit(self, job_id: str, workflow: str = "it") -> None:
        """Queue a job with a small payload."""
        body = {"id": job_id, "dag_name": workflow, "payload": {"job": job_id}}
        self.http.post("/api/v1/jobs", json=body).raise_for_status()

    def finished(self, job_id: str) -> dict[str, Any]:
        """Return a job once it has finished."""
        reply = self.http.get(f"/api/v1/jobs/{job_id}", params={"wait": WAIT_S})
        job: dict[str, Any] = reply.raise_for_status().json()
        return job

    def add_machine(self, number: int) -> "Machine":
        """Add a machine, for a client of its own: a second pull of one machine ends the first."""
        name = f"machine-{number}"
        body = {"name": name, "fixed_secret": True}
        reply = self.http.post("/api/v1/machines", json=body).raise_for_status()
        return Machine({**IDENTITY, "server_id": name}, str(reply.json()["secret"]))

    def call(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Make one dispatch call as a machine would."""
        return self.http.post(
            f"/api/v1/github/dispatch/{path}", json={**IDENTITY, **body}
        )


@frozen
class Machine:
    """A machine of a hub: the fields that name it in each call, and its secret."""

    identity: dict[str, str]
    secret: str


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a temporary folder on the disk of the working directory, which need not be that of /tmp."""
    path = Path(tempfile.mkdtemp(prefix=".bench-", dir=Path.cwd()))
    (path / "secret").write_text(SECRET)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def hub(
    path: Path,
    name: str = "hub",
    database_url: str = "sqlite:///hub.db",
    more: str = "",
) -> Iterator[Hub]:
    """Run a hub on a free loopback port, with additional lines of configuration."""
    place, port_file = path / name, path / f"{name}.port"
    license_id = IDENTITY["license_id"]
    made = init(
        place, listen="127.0.0.1:0", database_url=database_url, license_id=license_id
    )
    with made.settings.file.open("a") as file:
        file.write(more)
    database = Database.open(made.settings.database_url)
    MachineStore(database).add(
        invited(
            IDENTITY["server_id"], SECRET, fixed=True, license_id=license_id, now=1.0
        )
    )
    database.close()
    token = made.settings.token_file.read_text().strip()
    options = ["--config", str(made.settings.file), "--port-file", str(port_file)]
    command = [sys.executable, "-m", "dispatchd", "hub", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(port_file.exists)
        url = f"http://127.0.0.1:{port_file.read_text()}"
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, timeout=2 * WAIT_S, headers=headers) as http:
            yield Hub(url, http, process.pid)
    finally:
        process.terminate()
        process.wait()


def write_config(
    path: Path,
    url: str,
    command: Sequence[str],
    *,
    slots: int = 1,
    queue_ahead: int = 1,
) -> Path:
    """Write a configuration with one workflow called `it`."""
    file = path / "config.toml"
    quoted = ", ".join(f"'{word}'" for word in command)
    file.write_text(
        f"""
[cloud]
url = "{url}"
license_id = "{IDENTITY["license_id"]}"
server_id = "{IDENTITY["server_id"]}"
secret_file = "secret"
[store]
folder = "state"
min_free_mib = 0
[runs]
slots = {slots}
queue_ahead = {queue_ahead}
[log]
level = "warning"
[workflows.it]
command = [{quoted}]
"""
    )
    return file


@contextmanager
def daemon(
    config: Path,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon, in an environment or in this one; its log goes to a file beside its configuration."""
    with (config.parent / "daemon.log").open("ab") as log:
        command = [python, "-m", "dispatchd", "run", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition of another process has become true.

    Raises:
        TimeoutError: It has not, for too long.
    """
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def timed_s(act: Callable[[], object]) -> float:
    """Return the duration of an act (seconds)."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which a part (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@frozen
class Rounds(Generic[T]):
    """Measurements of a reference and of what is compared with it, taken in turns."""

    names: tuple[str, str]
    pairs: list[tuple[T, T]]

    def show(self, what: str, figure: Callable[[T], float], *, aim: str = "") -> None:
        """Print the medians of one figure, the median of the ratios of the rounds, and the ratios' spread."""
        references, measured = zip(
            *((figure(one), figure(other)) for one, other in self.pairs), strict=True
        )
        ratios = [other / one for one, other in zip(references, measured, strict=True)]
        reference, name = self.names
        print(
            f"  {what:27} {reference} {median(references):8.2f}   {name} {median(measured):8.2f}"
            f"   ratio {median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            + (f"   aim: {aim}" if aim else "")
        )


def in_rounds(
    pair: tuple[A, A], measure: Callable[[A], T], rounds: int = ROUNDS
) -> Rounds[T]:
    """Measure a reference and another in turns, so that what else the machine does meets both."""
    one, other = pair
    return Rounds(
        (one.name, other.name),
        [(measure(one), measure(other)) for _ in range(rounds)],
    )
