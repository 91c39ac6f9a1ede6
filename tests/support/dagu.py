"""Dagu of its npm package: server and scheduler on loopback, in a folder of their own, stopped and started again.

Distributed, a coordinator and two workers are added, and the workers execute the runs. Facts from its documentation. The
state is files, which all of them share, so what one of them has acknowledged outlives it.
"""

import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field

from support.daemon import write_config
from support.torture import lasting_port
from support.until import until

PROGRAM = (
    Path(__file__).parents[2]
    / ".venv/mocks/node_modules/@dagu-org/dagu-linux-x64/bin/dagu"
)

API = "/api/v2"
DAG = "dispatchd"

SERVER, SCHEDULER, COORDINATOR = "server", "scheduler", "coordinator"
WORKERS = ("w1", "w2")
DISTRIBUTED = (SERVER, SCHEDULER, COORDINATOR, *WORKERS)

_EXAMPLE = Path(__file__).parents[2] / "examples" / "dagu.yaml"

_CONFIG = """host: 127.0.0.1
port: {port}
auth:
  token:
    value: {key}
scheduler:
  port: 0
  zombieDetectionInterval: 2s
coordinator:
  host: 127.0.0.1
  port: {coordinator}
  advertise: 127.0.0.1
peer:
  insecure: true
queues:
  enabled: true
  config:
    - name: dispatchd
      maxConcurrency: {at_once}
"""

_SELECTED = """workerSelector:
  pool: ci
"""
"""Part of a DAG that workers execute, in place of the scheduler."""


def missing() -> str:
    """Return why no server can be run here; empty if one can."""
    if PROGRAM.exists():
        return ""
    return f"needs Dagu: {PROGRAM} is not there (make .venv/.mocks, which needs npm)"


@define
class Dagu:
    """The programs of Dagu on one state: server and scheduler, or all that it has when it is distributed."""

    folder: Path
    programs: tuple[str, ...] = (SERVER, SCHEDULER)
    at_once: int = 8
    """Most runs that its queue lets run (count)."""
    key: str = field(factory=lambda: secrets.token_hex(16))
    port: int = field(default=0)
    _coordinator: int = field(default=0, init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(factory=dict, init=False)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_distributed(self) -> bool:
        return COORDINATOR in self.programs

    def lay_out(self, state: Path, dag: str = "") -> None:
        """Write its configuration, and a DAG: the example, for a daemon with a state folder."""
        dag = dag or _EXAMPLE.read_text().replace("/var/lib/dispatchd", str(state))
        dag = dag.replace("maxActiveRuns: 8", f"maxActiveRuns: {self.at_once}")
        if self.is_distributed:
            dag = _SELECTED + dag
        if not self.port:
            self.port, self._coordinator = lasting_port(), lasting_port()
        (self.folder / "dags").mkdir(exist_ok=True)
        (self.folder / "config.yaml").write_text(
            _CONFIG.format(
                port=self.port,
                key=self.key,
                coordinator=self._coordinator,
                at_once=self.at_once,
            )
        )
        (self.folder / "dags" / f"{DAG}.yaml").write_text(dag)

    def start(self, *names: str) -> None:
        """Start what isn't running of its programs, or of some."""
        for name in names or self.programs:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self._processes[name] = subprocess.Popen(
                        [str(PROGRAM), *self._command(name)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, "DAGU_HOME": str(self.folder)},
                        start_new_session=True,
                    )

    def _command(self, name: str) -> list[str]:
        if name not in WORKERS:
            return [name]
        most = -(-self.at_once // len(WORKERS))
        return [
            *("worker", f"--worker.id={name}", "--worker.labels=pool=ci"),
            f"--worker.max-active-runs={most}",
        ]

    def pid(self, name: str) -> int:
        """Return the process id of a program, which is its session, too."""
        return self._processes[name].pid

    def kill(self, *names: str) -> None:
        """Kill -9 its programs, or some, and wait until they are gone."""
        for name in names or tuple(self._processes):
            self._processes[name].kill()
            self._processes[name].wait()

    async def get(self, path: str) -> Any:
        """Return what the API answers; None while it doesn't."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            try:
                reply = await http.get(f"{self.origin}{API}{path}", headers=headers)
            except httpx.TransportError:
                return None
        return reply.json()

    async def post(self, path: str, document: object = None) -> int:
        """Return the status that a call is answered with; 0 for none."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            try:
                reply = await http.post(
                    f"{self.origin}{API}{path}", json=document, headers=headers
                )
            except httpx.TransportError:
                return 0
        return reply.status_code

    async def until_up(self) -> None:
        async def look() -> bool:
            return "dagRuns" in (await self.get("/dag-runs") or {})

        await until(look, 60, "Dagu's API")

    async def runs(self) -> dict[str, str]:
        """Return the state of each run by its id."""
        found = await self.get("/dag-runs")
        return {run["dagRunId"]: run["statusLabel"] for run in found["dagRuns"] or []}

    async def places(self) -> set[str]:
        """Return the workers that have runs."""
        found = await self.get("/dag-runs")
        return {run.get("workerId", "") for run in found["dagRuns"] or []}


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Dagu]:
    """Have a place for a server for the length of a block; skip the test where none can be run."""
    if reason := missing():
        pytest.skip(reason)
    folder.mkdir()
    dagu = Dagu(folder, **options)
    try:
        yield dagu
    finally:
        # Its own end takes more than 10 s.
        dagu.kill()


@asynccontextmanager
async def running_dagu(
    folder: Path, state: Path, **options: Any
) -> AsyncIterator[Dagu]:
    """Run Dagu for the daemon with a state folder."""
    with served(folder, **options) as dagu:
        dagu.lay_out(state)
        dagu.start()
        await dagu.until_up()
        yield dagu


def dagu_config(
    folder: Path,
    url: str,
    workflows: Mapping[str, list[str]],
    origin: str,
    key: str,
    *,
    limits: str = "",
    engine: str = "",
) -> Path:
    """Write the configuration of a daemon whose workflows run on a server with a key."""
    file = write_config(
        folder,
        url,
        workflows,
        limits=f'engine = "dags"\n{limits}',
        runs="inactivity_s = 0\nretry_wait_s = 0.1",
    )
    key_file = folder / "dagu-key"
    key_file.write_text(f"{key}\n")
    key_file.chmod(0o600)
    with file.open("a") as text:
        text.write(
            f'\n[engines.dags]\nkind = "dagu"\nurl = "{origin}{API}"\ndag = "{DAG}"\n'
            f'key_file = "dagu-key"\npoll_s = 1\n{engine}\n'
        )
    return file
