"""The log of a run at the hub: live while somebody watches, whole afterwards, whatever is cut or killed meanwhile."""

from pathlib import Path

import anyio
import httpx
from attrs import define, field

from dispatchd.linux.file_holes import read_around_holes
from dispatchd.redaction.redactor import Redactor
from support import daemon_process, hub_process
from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.endpoint import SECRET as MACHINE_SECRET

SECRET = "hunter2-the-value-of-the-secret"
LIMITS = """
secrets = { KEY = "key" }
output_max_mib = 64
"""


def write_machine(folder: Path, url: str, script: str, limits: str = LIMITS) -> Path:
    config = write_config(folder, url, {"it": ["/bin/sh", "-c", script]}, limits=limits)
    (folder / "key").write_text(SECRET)
    config.write_text(config.read_text() + '\n[secrets.key]\nfile = "key"\n')
    return config


def local_text(daemon: DaemonProcess, attempt: int = 1) -> bytes:
    """Return what the machine has of a log, without secrets."""
    path = daemon.state / f"runs/j/attempt-{attempt}/output.log"
    text = b"".join(read_around_holes(path, 1 << 20)).decode("utf-8", "surrogateescape")
    clean = Redactor.of([SECRET, MACHINE_SECRET]).scrub(text)
    return clean.encode("utf-8", "surrogateescape")


@define
class Reader:
    """A program that follows the log of a job by the hub's API, as `dispatchd hub logs -f` does."""

    http: httpx.AsyncClient
    job_id: str = "j"
    text: bytes = b""
    part: int = 1
    headers: dict[str, str] = field(factory=dict)

    async def read(self, wait_s: float = 5) -> bytes:
        reply = await self.http.get(
            f"/api/v1/jobs/{self.job_id}/log",
            params={"part": self.part, "offset": len(self.text), "wait": wait_s},
        )
        assert reply.status_code == 200, reply.text
        self.headers = dict(reply.headers)
        self.text += reply.content
        return reply.content

    async def to_the_end(self) -> bytes:
        while True:
            try:
                await self.read()
            except httpx.TransportError:
                await anyio.sleep(0.1)
                continue
            if self.headers["log-complete"] == "1":
                return self.text


async def test_a_line_is_there_soon_and_the_rest_at_the_end(tmp_path: Path) -> None:
    script = 'echo "first $KEY"; while [ ! -e go ]; do sleep 0.05; done; echo last'
    async with hub_process.hub(tmp_path / "hub") as hub:
        config = write_machine(tmp_path / "machine", hub.url, script)
        async with daemon_process.running_daemon(config) as daemon:
            await hub.submit({"id": "j", "dag_name": "it"})
            await hub.result("j", until="running")
            reader = Reader(hub.http)

            with anyio.fail_after(10):
                while not await reader.read():
                    pass

            assert reader.text == b"first [redacted]\n"
            (daemon.state / "runs/j/workspace/go").touch()
            assert await reader.to_the_end() == local_text(daemon)
    assert reader.text == b"first [redacted]\nlast\n"
