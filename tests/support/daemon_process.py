"""A real daemon process on a state folder of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from attrs import define, field

from support.endpoint import SECRET


def write_config(
    folder: Path,
    url: str,
    workflows: Mapping[str, list[str]],
    *,
    cloud: str = "",
    store: str = 'folder = "state"\nmin_free_mib = 0',
    runs: str = "",
    limits: str = "",
) -> Path:
    """Write a configuration with its secret; the other arguments are lines of TOML for each table."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    tables = "\n".join(
        f"[workflows.{json.dumps(name)}]\ncommand = {json.dumps(command)}\n{limits}\n"
        for name, command in workflows.items()
    )
    file = folder / "config.toml"
    file.write_text(
        f"""
[cloud]
url = "{url}"
license_id = "lic-test"
server_id = "srv-test"
secret_file = "secret"
{cloud}
[store]
{store}
[runs]
{runs}
[log]
level = "debug"
format = "json"
{tables}
"""
    )
    return file


@define
class DaemonProcess:
    """One `dispatchd run`; its log goes to a file, so that it survives a kill."""

    config: Path
    wrapper: tuple[str, ...] = ()
    env: Mapping[str, str] = field(factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def state(self) -> Path:
        return self.config.parent / "state"

    @property
    def log_file(self) -> Path:
        return self.config.parent / "daemon.log"

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.wrapper,
                    sys.executable,
                    "-m",
                    "dispatchd",
                    "run",
                    "--config",
                    str(self.config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
            )

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(
        self, number: signal.Signals = signal.SIGTERM, within_s: float = 20
    ) -> int:
        self.process.send_signal(number)
        return self.process.wait(within_s)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self) -> list[dict[str, Any]]:
        """Return what was logged so far, as JSON objects; other lines as `{"text": line}`."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text(errors="replace").splitlines()
        return [
            json.loads(line)
            if line.startswith("{") and line.endswith("}")
            else {"text": line}
            for line in lines
        ]

    async def until_logged(
        self, event: str, within_s: float = 30, **keys: object
    ) -> dict[str, Any]:
        """Return the first log line with an event and keys, waiting for it."""
        with anyio.fail_after(within_s):
            while True:
                for line in self.log():
                    if line.get("event") == event and all(
                        line.get(k) == v for k, v in keys.items()
                    ):
                        return line
                assert self.alive, self.log()[-20:]
                # The log is a file of another process: nothing announces its growth.
                await anyio.sleep(0.02)


def resident_kib(daemon: DaemonProcess) -> int:
    """Return the resident memory of a daemon (KiB, VmRSS of proc_pid_status(5))."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@contextmanager
def running(config: Path, **options: Any) -> Iterator[DaemonProcess]:
    """Run a daemon for the length of a block; it is killed at the end, and its log shown on failure."""
    daemon = DaemonProcess(config, **options)
    daemon.start()
    try:
        yield daemon
    except BaseException:
        for line in daemon.log()[-40:]:
            print(line)
        raise
    finally:
        daemon.kill()


@asynccontextmanager
async def running_daemon(config: Path, **options: Any) -> AsyncIterator[DaemonProcess]:
    """Run a daemon for the length of an async block, and wait until it is ready."""
    with running(config, **options) as daemon:
        await daemon.until_logged("daemon_ready")
        yield daemon
        await to_thread.run_sync(daemon.stop)
