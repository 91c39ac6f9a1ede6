"""What a run starts ends with it, also what has forked twice and left its group and its session."""

import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from dispatchd.agent.engines.local.process import without
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import endpoint
from support.until import until

ROUNDS = 34
"""Of each of three kinds, in torture: a little over 100 runs."""

LIMIT_S = 400.0
SLOTS = 8

ESCAPE = """
import os, pathlib, signal, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if "{stubborn}":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        aside = pathlib.Path("port.aside")
        aside.write_text(str(listener.getsockname()[1]))
        aside.rename("port")
        time.sleep(300)
    os._exit(0)
os.wait()
while not os.path.exists("port"):
    time.sleep(0.01)
print("ready", flush=True)
{then}
"""

KINDS = {
    "cancelled": ("time.sleep(300)", "", ""),
    "stubborn": ("time.sleep(300)", "x", ""),
    "too_long": ("time.sleep(300)", "", f"max_duration_s = {LIMIT_S}"),
    "silent": ("time.sleep(300)", "", f"inactivity_s = {LIMIT_S}"),
    "done": ("", "", ""),
}


def config(tmp_path: Path, url: str) -> Path:
    file = write_config(
        tmp_path, url, {}, runs=f"slots = {SLOTS}\nqueue_ahead = 8\nkill_grace_s = 1"
    )
    tables = []
    for name, (then, stubborn, limits) in KINDS.items():
        script = tmp_path / f"{name}.py"
        script.write_text(ESCAPE.format(then=then, stubborn=stubborn))
        command = f'["{sys.executable}", "-S", "-E", "{script}"]'
        tables.append(f"[workflows.{name}]\ncommand = {command}\n{limits}\n")
    file.write_text(file.read_text() + "\n".join(tables))
    return file


def alive_in(folder: Path) -> list[int]:
    """Return the live processes that were started for a run below a folder, by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"DISPATCHD_ATTEMPT_FOLDER={folder}".encode() in environment:
            found.append(int(entry.name))
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def until_ready(daemon: DaemonHere, job_id: str) -> None:
    output = daemon.state / "runs" / job_id / "attempt-1" / "output.log"
    await until(lambda: output.exists() and "ready" in output.read_text(), 60)


@pytest.mark.parametrize(
    "rounds", [4, pytest.param(ROUNDS, marks=pytest.mark.torture(least_s=20))]
)
@pytest.mark.parametrize("kind", ["cancelled", "too_long", "silent"])
async def test_a_grandchild_in_a_session_of_its_own_ends_with_the_run_every_time(
    tmp_path: Path, kind: str, rounds: int
) -> None:
    jobs = [f"{kind}{number}" for number in range(rounds)]
    async with (
        endpoint() as hub,
        running_daemon(config(tmp_path, hub.url)) as daemon,
    ):
        for first in range(0, rounds, SLOTS):
            together = jobs[first : first + SLOTS]
            for job_id in together:
                hub.hand_out({"id": job_id, "dag_name": kind})
            for job_id in together:
                await until_ready(daemon, job_id)
            if kind == "cancelled":
                for job_id in together:
                    hub.hand_out(
                        {"id": f"c-{job_id}", "command": "cancel", "dag_run_id": job_id}
                    )
            else:
                await advance(LIMIT_S)
            await hub.until_finished(*together, within_s=60)
        finished = [hub.finished[job_id] for job_id in jobs]
        left = alive_in(daemon.state / "runs")
        ports = [
            int((daemon.state / "runs" / job_id / "workspace" / "port").read_text())
            for job_id in jobs
        ]

    assert left == []
    assert all(is_free(port) for port in ports)
    said = [each["result_summary"] for each in finished]
    assert [each for each in said if "1 of its processes" not in each] == []


@pytest.mark.parametrize(("kind", "outcome"), [("done", "succeeded")])
async def test_what_outlives_a_success_is_ended_and_counted(
    tmp_path: Path, kind: str, outcome: str
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(config(tmp_path, hub.url)) as daemon,
    ):
        hub.hand_out({"id": "j", "dag_name": kind})
        finished = (await hub.until_finished("j"))[0]
        left = alive_in(daemon.state / "runs")

    assert left == []
    assert finished["result_status"] == outcome
    assert "1 of its processes" in finished["result_summary"]


async def test_a_grandchild_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with (
        endpoint() as hub,
        running_daemon(config(tmp_path, hub.url)) as daemon,
    ):
        hub.hand_out({"id": "j", "dag_name": "stubborn"})
        await until_ready(daemon, "j")
        hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        await hub.until_finished("j")
        left = alive_in(daemon.state / "runs")

    assert left == []


def test_the_probe_sees_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        assert not is_free(taken.getsockname()[1])


async def test_what_is_just_ending_is_not_counted_for_another_run() -> None:
    """A process loses its environment, which says whose it is, before it is seen as ended."""
    marker = b"DISPATCHD_ATTEMPT_FOLDER=/another"
    name, _, value = marker.decode().partition("=")
    sleepers = [
        subprocess.Popen(["/bin/sleep", "300"], env={name: value}) for _ in range(400)
    ]
    pids = [each.pid for each in sleepers]
    try:
        environments = [Path(f"/proc/{pid}/environ") for pid in pids]
        await until(lambda: all(marker in each.read_bytes() for each in environments))
        counted: set[int] = set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, partial(kill, sleepers))
            while alive := [each for each in sleepers if each.poll() is None]:
                counted |= without([each.pid for each in alive], {marker})[0]
                await anyio.lowlevel.checkpoint()
    finally:
        kill(sleepers)
    assert counted == set()


def kill(sleepers: list[subprocess.Popen[bytes]]) -> None:
    for each in sleepers:
        each.kill()
        each.wait()
