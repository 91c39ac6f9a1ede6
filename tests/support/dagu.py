"""A Dagu server of its npm package: server and scheduler on loopback, in a folder of its own, stopped and started again.

Facts from its documentation. The state is files, so what one of the two has acknowledged outlives it.
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

_EXAMPLE = Path(__file__).parents[2] / "examples" / "dagu.yaml"

_CONFIG = """host: 127.0.0.1
port: {port}
auth:
  token:
    value: {key}
scheduler:
  port: 0
  zombieDetectionInterval: 2s
queues:
  enabled: true
  config:
    - name: dispatchd
      maxConcurrency: 8
"""


def missing() -> str:
    """Return why no server can be run here; empty if one can."""
    if PROGRAM.exists():
        return ""
    return f"needs Dagu: {PROGRAM} is not there (make .venv/.mocks, which needs npm)"


@define
class Dagu:
    """A server and a scheduler on one state."""

    folder: Path
    key: str = field(factory=lambda: secrets.token_hex(16))
    port: int = field(default=0)
    _processes: dict[str, subprocess.Popen[bytes]] = field(factory=dict, init=False)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lay_out(self, state: Path, dag: str = "") -> None:
        """Write its configuration, and a DAG: the example, for a daemon with a state folder."""
        dag = dag or _EXAMPLE.read_text().replace("/var/lib/dispatchd", str(state))
        if not self.port:
            self.port = lasting_port()
        (self.folder / "dags").mkdir(exist_ok=True)
        (self.folder / "config.yaml").write_text(
            _CONFIG.format(port=self.port, key=self.key)
        )
        (self.folder / "dags" / f"{DAG}.yaml").write_text(dag)

    def start(self, *names: str) -> None:
        """Start what isn't running of the server and the scheduler."""
        for name in names or ("server", "scheduler"):
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self._processes[name] = subprocess.Popen(
                        [str(PROGRAM), name],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, "DAGU_HOME": str(self.folder)},
                        start_new_session=True,
                    )

    def pid(self, name: str) -> int:
        """Return the process id of the server or the scheduler."""
        return self._processes[name].pid

    def kill(self, *names: str) -> None:
        """Kill -9 the server, the scheduler, or both, and wait until they are gone."""
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

    async def post(self, path: str) -> int:
        """Return the status that a call is answered with."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            reply = await http.post(f"{self.origin}{API}{path}", headers=headers)
        return reply.status_code

    async def until_up(self) -> None:
        async def look() -> bool:
            return "dagRuns" in (await self.get("/dag-runs") or {})

        await until(look, 60, "Dagu's API")

    async def runs(self) -> dict[str, str]:
        """Return the state of each run by its id."""
        found = await self.get("/dag-runs")
        return {run["dagRunId"]: run["statusLabel"] for run in found["dagRuns"] or []}


@contextmanager
def served(folder: Path) -> Iterator[Dagu]:
    """Have a place for a server for the length of a block; skip the test where none can be run."""
    if reason := missing():
        pytest.skip(reason)
    folder.mkdir()
    dagu = Dagu(folder)
    try:
        yield dagu
    finally:
        # Its own end takes more than 10 s.
        dagu.kill()


@asynccontextmanager
async def running_dagu(folder: Path, state: Path) -> AsyncIterator[Dagu]:
    """Run a server for the daemon with a state folder."""
    with served(folder) as dagu:
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
