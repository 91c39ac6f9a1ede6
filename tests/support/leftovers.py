"""What a daemon that met its end has left, and whether it met it before its job."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread

from support.daemon_process import DaemonProcess
from support.hub import Hub
from support.until import until


def left_alive(folder: Path) -> list[int]:
    """Return the pids of processes that were started for runs below a folder."""
    return [
        pid
        for pid, environment in environments()
        if f"{folder}/".encode() in environment
    ]


def end_left_alive(folder: Path) -> None:
    """Kill the processes that were started for runs below a folder."""
    for pid in left_alive(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def environments() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield int(entry.name), (entry / "environ").read_bytes()
            except OSError:
                continue


def records_left(state: Path) -> list[str]:
    return [file.name for file in (state / "jobs").glob("*.json")]


async def until_settled(daemon: DaemonProcess) -> None:
    await until(lambda: not records_left(daemon.state), 20, "no records")


async def finishes_first(server: Hub, daemon: DaemonProcess) -> bool:
    """Return True if the job ends and the daemon stops in order, and False if the daemon is killed before that."""
    async with anyio.create_task_group() as tasks:

        async def finish() -> None:
            await server.result("j")
            tasks.cancel_scope.cancel()

        tasks.start_soon(finish)
        await to_thread.run_sync(daemon.process.wait, abandon_on_cancel=True)
        tasks.cancel_scope.cancel()
    # It may still meet its end while it stops in order.
    return daemon.alive and await to_thread.run_sync(daemon.stop) == 0
