"""Who inherits orphans reaps them: the first process of a container, and a subreaper."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.daemon import write_config
from support.daemon_process import DaemonProcess, running_daemon
from support.endpoint import Endpoint, endpoint
from support.until import until

ORPHANS = """
for each in 1 2 3; do (setsid sh -c 'sleep 0.2' &); done
sleep 0.5
for each in 1 2; do (sleep 60 &); done
"""

SUBREAPER = (
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Makes the process that becomes the daemon a subreaper (PR_SET_CHILD_SUBREAPER, prctl(2))."""

FIRST = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

COUNT = r"cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '"


def children(pid: int) -> list[str]:
    """Return the states of the processes below one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            fields = (each / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [fields[0], *children(int(each.name))]
    return found


@asynccontextmanager
async def daemon_and_hub(
    tmp_path: Path, wrapper: tuple[str, ...]
) -> AsyncIterator[tuple[DaemonProcess, Endpoint]]:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"orphans": ["/bin/sh", "-c", ORPHANS], "count": ["/bin/sh", "-c", COUNT]},
        )
        async with running_daemon(config, wrapper=wrapper) as daemon:
            for number in range(3):
                hub.hand_out({"id": f"j{number}", "dag_name": "orphans"})
                finished = (await hub.until_finished(f"j{number}"))[0]
                assert finished["result_status"] == "succeeded", finished
            yield daemon, hub


async def test_a_subreaper_leaves_no_zombies_and_passes_signals_on(
    tmp_path: Path,
) -> None:
    async with daemon_and_hub(tmp_path, SUBREAPER) as (daemon, _):
        pid = daemon.process.pid
        await until(lambda: "Z" not in children(pid))
        # The daemon itself is below.
        assert children(pid)
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.until_logged("reloaded")

        assert daemon.stop() == 0


async def test_a_kill_of_the_process_that_was_started_is_the_daemons_end(
    tmp_path: Path,
) -> None:
    async with daemon_and_hub(tmp_path, SUBREAPER) as (daemon, _):
        daemon.kill()
        await until(lambda: not is_there(daemon))


def is_there(daemon: DaemonProcess) -> bool:
    """Return whether a process with the daemon's configuration is there."""
    wanted = os.fsencode(daemon.config)
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in each.read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.mark.host
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, unshare"
)
async def test_the_first_process_of_a_container_leaves_no_zombies(
    tmp_path: Path,
) -> None:
    async with daemon_and_hub(tmp_path, FIRST) as (daemon, hub):
        hub.hand_out({"id": "c", "dag_name": "count"})
        finished = (await hub.until_finished("c"))[0]
        log = daemon.state / "runs/c/attempt-1/output.log"

        # unshare(1) doesn't pass a stop on.
        daemon.kill()

    assert log.read_text() == "0\n", finished
