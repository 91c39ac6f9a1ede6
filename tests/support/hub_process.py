"""A real hub process on a free loopback port."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from attrs import define, field

from dispatchd.hub.database import Database
from dispatchd.hub.machine_store import MachineStore
from dispatchd.hub.machines import invited
from dispatchd.hub.settings import FILE, TOKEN_FILE
from dispatchd.hub.setup import init
from support.endpoint import SECRET

MACHINES = ("srv-test", "a", "b", *(f"m{number}" for number in range(8)))
"""The machines that a hub under test knows; all have the same secret."""


@define
class HubProcess:
    """One `dispatchd hub serve`; restarted, it keeps its database and its port."""

    folder: Path
    lease_s: float = 60.0
    patience_s: float = 300.0
    unheard_s: float = 86_400.0
    most_expiries: int = 3
    database_url: str = "sqlite:///hub.db"
    more: str = ""
    """Further tables of the configuration."""
    env: Mapping[str, str] = field(factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] = field(init=False)
    http: httpx.AsyncClient = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        if not (self.folder / FILE).exists():
            self._make()
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatchd", "hub", "serve"),
                    *(
                        "--config",
                        str(self.folder / FILE),
                        "--port-file",
                        str(port_file),
                    ),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
            )
        with anyio.fail_after(30):
            while not port_file.exists():
                assert self.process.poll() is None, (
                    self.folder / "hub.log"
                ).read_text()
                # Made by another process: nothing announces it.
                await anyio.sleep(0.02)
        port = int(port_file.read_text())
        if port != self.port:
            # From now on it is the same at each start.
            self.port = port
            self.configure(f'listen = "127.0.0.1:{port}"')

    @property
    def headers(self) -> dict[str, str]:
        """What proves to the hub that this is its owner."""
        token = (self.folder / TOKEN_FILE).read_text().strip()
        return {"authorization": f"Bearer {token}"}

    def configure(self, top: str = "") -> None:
        """Write the configuration; `top` is its first line."""
        self.folder.joinpath(FILE).write_text(
            f"""{top or f'listen = "127.0.0.1:{self.port}"'}
database_url = "{self.database_url}"
license_id = "lic-test"
[leases]
seconds = {self.lease_s}
patience_s = {self.patience_s}
unheard_s = {self.unheard_s}
most_expiries = {self.most_expiries}
{self.more}
"""
        )

    def _make(self) -> None:
        options = {"listen": "127.0.0.1:0", "license_id": "lic-test"}
        made = init(self.folder, database_url=self.database_url, **options)
        self.configure()
        database = Database.open(made.settings.database_url)
        for name in MACHINES:
            machine = invited(name, SECRET, fixed=True, license_id="lic-test", now=1.0)
            MachineStore(database).add(machine)
        database.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    async def submit(
        self, job: dict[str, Any], payload: str = "null", headers: str = "null"
    ) -> str:
        """Queue a job with exact payload and headers texts; return its id."""
        head = json.dumps(job)
        body = f'{head[:-1]}, "payload": {payload}, "headers": {headers}}}'
        reply = await self.http.post("/api/v1/jobs", content=body)
        assert reply.status_code == 201, reply.text
        found: str = reply.json()["id"]
        return found

    async def result(
        self, job_id: str, within_s: float = 60, until: str = "finished"
    ) -> dict[str, Any]:
        """Return a job once it has reached a state."""
        reply = await self.http.get(
            f"/api/v1/jobs/{job_id}", params={"wait": str(within_s), "until": until}
        )
        found: dict[str, Any] = reply.json()
        assert found.get("ended") or found.get("state") == until, found
        return found


@asynccontextmanager
async def hub(
    folder: Path, *, lease_s: float = 60.0, **options: Any
) -> AsyncIterator[HubProcess]:
    """Run a hub for the length of a block."""
    found = HubProcess(folder, lease_s=lease_s, **options)
    await found.start()
    try:
        async with httpx.AsyncClient(
            base_url=found.url, timeout=300, headers=found.headers
        ) as http:
            found.http = http
            yield found
    finally:
        found.kill()
