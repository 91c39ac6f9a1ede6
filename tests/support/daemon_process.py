"""A real daemon process on a state folder of its own."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread
from attrs import define, field
from typing_extensions import override

from support.daemon import DaemonLog
from support.forks import Process, dispatchd_in


@define(kw_only=True)
class DaemonProcess(DaemonLog):
    """One `dispatchd run`; its log goes to a file, so that it survives a kill."""

    wrapper: tuple[str, ...] = ()
    process: Process = field(init=False)

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = dispatchd_in(
                *("run", "--config", str(self.config)),
                env=self.env,
                output=log.fileno(),
                wrapper=self.wrapper,
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
    @override
    def alive(self) -> bool:
        return self.process.poll() is None


def resident_kib(daemon: DaemonProcess) -> int:
    """Return the resident memory of a daemon (KiB, VmRSS of proc_pid_status(5))."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@contextmanager
def running(config: Path, **options: Any) -> Iterator[DaemonProcess]:
    """Run a daemon for the length of a block; it is killed at the end, and its log shown on failure."""
    daemon = DaemonProcess(config=config, **options)
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
