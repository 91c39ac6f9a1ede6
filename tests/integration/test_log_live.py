"""The log of a run at the hub: live while somebody watches, whole afterwards, whatever is cut or killed meanwhile."""

from pathlib import Path

import anyio
import httpx
from attrs import define, field

from support import daemon_process, hub_process
from support.daemon import write_config
from support.local_log import clean_log
from support.until import until

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
            assert await reader.to_the_end() == clean_log(daemon, [SECRET])
    assert reader.text == b"first [redacted]\nlast\n"


WRITES = """
import os, pathlib, sys, time
secret = os.environ["KEY"]
out = sys.stdout.buffer
for phase in range(4):
    for number in range(300):
        out.write(b"\\x1b[32m%05d\\x1b[0m some line of a build, of an ordinary length\\n" % number)
        if number % 50 == 0:
            out.write(secret[:11].encode())
            out.flush()
            time.sleep(0.02)
            out.write(secret[11:].encode() + b"\\n")
    out.write(b"x" * 200_000 + b"\\xff\\x00\\r\\n" + b"phase %d is over\\n" % phase)
    out.flush()
    while not pathlib.Path(f"go-{phase}").exists():
        time.sleep(0.05)
"""


async def test_kills_on_both_sides_take_nothing_of_a_log(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    async with hub_process.hub(tmp_path / "hub") as hub:
        config = write_machine(folder, hub.url, f"exec python3 {folder}/writes.py")
        (folder / "writes.py").write_text(WRITES)
        with daemon_process.running(config) as daemon:
            await daemon.until_logged("daemon_ready")
            await hub.submit({"id": "j", "dag_name": "it"})
            await hub.result("j", until="running")
            reader = Reader(hub.http)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader.to_the_end)
                for phase in range(4):
                    over = f"phase {phase} is over\n".encode()
                    await until(lambda: over in reader.text, 60)  # noqa: B023
                    if phase in (0, 2, 3):
                        hub.kill()
                    (daemon.state / f"runs/j/workspace/go-{phase}").touch()
                    if phase == 3:
                        # The run ends while no hub answers, and its secrets are forgotten with the daemon.
                        await daemon.until_logged("log_delayed", job_id="j")
                        clean = daemon.state / "runs/j/attempt-1/log.clean"
                        await until(clean.exists)
                    if phase in (1, 3):
                        daemon.kill()
                        daemon.start()
                    if phase in (0, 2, 3):
                        await hub.start()
            assert (await hub.result("j"))["state"] == "succeeded"
            expected = clean_log(daemon, [SECRET])
            whole = Reader(hub.http)
            await whole.to_the_end()
            await until(lambda: not clean.exists())
            daemon.stop()

    assert len(expected) > 800_000
    assert expected.count(b"[redacted]\n") == 24
    assert whole.text == expected
    assert SECRET.encode() not in reader.text
    assert SECRET[:11].encode() not in reader.text


async def test_a_log_whose_middle_is_cut_out_ends_as_the_local_one(
    tmp_path: Path,
) -> None:
    script = "seq -w 1 900000; sleep 3; seq -w 1 10"
    async with hub_process.hub(tmp_path / "hub") as hub:
        limits = LIMITS.replace("= 64", "= 1")
        config = write_machine(tmp_path / "machine", hub.url, script, limits)
        async with daemon_process.running_daemon(config) as daemon:
            await hub.submit({"id": "j", "dag_name": "it"})
            await hub.result("j", until="running")
            live = Reader(hub.http)
            await live.read()
            await hub.result("j")
            # Whoever reads before the end may have the middle that is then taken out.
            await live.to_the_end()
            whole = Reader(hub.http)
            await whole.to_the_end()
            expected = clean_log(daemon, [SECRET])

    assert b"bytes of output are left out here]" in expected
    assert len(expected) < 1 << 20
    assert whole.text == expected
