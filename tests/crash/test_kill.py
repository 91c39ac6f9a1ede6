"""The daemon is killed with SIGKILL wherever it can be: nothing lost, nothing run twice, nothing unreported."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.hub_process import HubProcess, hub
from support.preload import build

RUNS = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"; sleep 0.3; exit 7'
JOBS = 300
KILLS = 200
SEED = 20261120


def machine(folder: Path, url: str, ledger: Path, script: str, runs: str = "") -> Path:
    return write_config(
        folder,
        url,
        {"it": ["/bin/sh", "-c", script]},
        cloud="hold_s = 5\npoll_interval_s = 0.5",
        runs=runs,
        limits=f'env = {{ LEDGER = "{ledger}" }}',
    )


@pytest.fixture(scope="session")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that kills the daemon at a chosen step."""
    source = Path(__file__).with_name("kill_at.c")
    return build(source, tmp_path_factory.mktemp("kill"))


def left_alive(folder: Path) -> list[int]:
    """Return the pids of processes that were started for runs below a folder."""
    return [
        pid
        for pid, environment in environments()
        if f"{folder}/".encode() in environment
    ]


def environments() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield int(entry.name), (entry / "environ").read_bytes()
            except OSError:
                continue


def records_left(state: Path) -> list[str]:
    return [each.name for each in (state / "jobs").glob("*.json")]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_before_every_step_that_the_outside_can_see(
    tmp_path: Path, kill_at: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with hub(tmp_path / "hub", lease_s=1) as server:
        step = 0
        survived = False
        while not survived:
            step += 1
            survived = await one_job_with_a_kill(
                tmp_path / f"m{step}", server, ledger, kill_at, step
            )
        counts = Counter(ledger.read_text().split())
    print(f"killed before each of {step - 1} steps")

    assert step > 40
    assert counts == dict.fromkeys(
        (f"job-{number}" for number in range(1, step + 1)), 1
    )


async def one_job_with_a_kill(
    folder: Path, server: HubProcess, ledger: Path, library: Path, step: int
) -> bool:
    """Take one job through a daemon that is killed at a step and another after it; True if the first survived."""
    config = machine(folder, server.url, ledger, RUNS)
    env = {"LD_PRELOAD": str(library), "KILL_AT": str(step)}
    daemon = DaemonProcess(config=config, env=env)
    job_id = f"job-{step}"
    daemon.start()
    try:
        await server.submit({"id": job_id, "dag_name": "it"})
        async with anyio.create_task_group() as tasks:
            # Either the job is finished by this daemon or this daemon is dead; whichever comes first.
            tasks.start_soon(finish_first, server, job_id, tasks.cancel_scope)
            await anyio.to_thread.run_sync(daemon.process.wait, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()
    finally:
        # It may still meet its end while it stops in order.
        survived = daemon.alive and daemon.stop() == 0
    if not survived:
        daemon.env = {}
        daemon.start()
    result = await server.result(job_id)
    if not survived:
        await daemon.until_logged("daemon_ready", pid=daemon.process.pid)
        await until_settled(daemon)
        daemon.stop()
    assert (result["result_status"], result["finishes"] >= 1) == ("failed", True)
    assert "exit code 7" in result["result_summary"], (step, result)
    assert records_left(daemon.state) == []
    assert left_alive(folder) == []
    return survived


async def until_settled(daemon: DaemonProcess) -> None:
    with anyio.fail_after(20):
        while records_left(daemon.state):
            await anyio.sleep(0.02)


async def finish_first(
    server: HubProcess, job_id: str, other: anyio.CancelScope
) -> None:
    await server.result(job_id)
    other.cancel()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_at_random_moments_while_many_jobs_pass(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    ledger = tmp_path / "ledger"
    script = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"; sleep "0.$(( $$ % 10 ))"; exit $(( ${#DISPATCHD_JOB_ID} % 2 ))'
    ids = [f"job-{number}" for number in range(JOBS)]
    async with hub(tmp_path / "hub", lease_s=1) as server:
        config = machine(
            tmp_path / "machine",
            server.url,
            ledger,
            script,
            "slots = 8\nqueue_ahead = 8",
        )
        daemon = DaemonProcess(config=config)
        waiting = iter(ids)
        for kill in range(KILLS):
            for _ in range(JOBS * (kill + 1) // KILLS - JOBS * kill // KILLS):
                await server.submit({"id": next(waiting), "dag_name": "it"})
            daemon.start()
            await anyio.sleep(rng.uniform(0.25, 0.9))
            daemon.kill()
        daemon.start()
        results = {job_id: await server.result(job_id) for job_id in ids}
        await until_settled(daemon)
        daemon.stop()

    assert Counter(ledger.read_text().split()) == dict.fromkeys(ids, 1)
    expected = {job_id: "failed" if len(job_id) % 2 else "succeeded" for job_id in ids}
    assert {
        job_id: result["result_status"] for job_id, result in results.items()
    } == expected
    assert records_left(daemon.state) == []
    assert left_alive(tmp_path / "machine") == []
