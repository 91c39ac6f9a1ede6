"""A real hub process on a free loopback port."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from attrs import define, field

from support.endpoint import SECRET


@define
class HubProcess:
    """One `dispatchd hub serve`; restarted, it keeps its database and its port."""

    folder: Path
    lease_s: float = 60.0
    port: int = 0
    process: subprocess.Popen[bytes] = field(init=False)
    http: httpx.AsyncClient = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "secret").write_text(SECRET)
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        (self.folder / "keys").write_text("license-key-1\n")
        options = {
            "--db": "hub.db",
            "--port": str(self.port),
            "--port-file": "port",
            "--secret-file": "secret",
            "--license-id": "lic-test",
            "--license-key-file": "keys",
            "--lease-s": str(self.lease_s),
        }
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "dispatchd",
                    "hub",
                    "serve",
                    *(w for pair in options.items() for w in pair),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        with anyio.fail_after(30):
            while not port_file.exists():
                assert self.process.poll() is None, (
                    self.folder / "hub.log"
                ).read_text()
                # Made by another process: nothing announces it.
                await anyio.sleep(0.02)
        self.port = int(port_file.read_text())

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
        assert found.get("state") in (until, "finished"), found
        return found


@asynccontextmanager
async def hub(folder: Path, *, lease_s: float = 60.0) -> AsyncIterator[HubProcess]:
    """Run a hub for the length of a block."""
    found = HubProcess(folder, lease_s=lease_s)
    await found.start()
    try:
        async with httpx.AsyncClient(base_url=found.url, timeout=300) as http:
            found.http = http
            yield found
    finally:
        found.kill()
