"""The daemon is killed with SIGKILL wherever it can be: nothing lost, nothing run twice, nothing unreported."""

from collections import Counter
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from support.clock import advance
from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.hub import hub
from support.leftovers import (
    finishes_first,
    left_alive,
    records_left,
    until_settled,
)
from support.torture import Sweep, Torture

RUNS = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"; sleep 0.3; exit 7'

KILLS = 200
LEAST_KILLS = 20
"""How many there are, even if the time is over."""


def machine(folder: Path, url: str, ledger: Path, script: str, runs: str = "") -> Path:
    return write_config(
        folder,
        url,
        {"it": ["/bin/sh", "-c", script]},
        cloud="hold_s = 5\npoll_interval_s = 0.5",
        runs=runs,
        limits=f'env = {{ LEDGER = "{ledger}" }}',
    )


ONE_JOB = Sweep(least=45, most=60)
"""Step 44 comes when the command has a process and waits at its gate for that to be durable."""


@pytest.mark.parametrize(("sweep", "step"), ONE_JOB.smoke(3, 40, 44))
async def test_killed_before_a_few_steps_that_the_outside_can_see(
    tmp_path: Path, kill_at: Path, sweep: Sweep, step: int
) -> None:
    await run_despite_a_kill(tmp_path, kill_at, sweep, step)


@pytest.mark.parametrize(("sweep", "step"), ONE_JOB.every_step())
async def test_killed_before_every_step_that_the_outside_can_see(
    tmp_path: Path, kill_at: Path, sweep: Sweep, step: int
) -> None:
    await run_despite_a_kill(tmp_path, kill_at, sweep, step)


async def run_despite_a_kill(
    folder: Path, library: Path, sweep: Sweep, step: int
) -> None:
    """Take one job through a daemon that is killed at a step, and another after it."""
    ledger = folder / "ledger"
    async with hub(folder / "hub") as server:
        config = machine(folder / "machine", server.url, ledger, RUNS)
        env = {"LD_PRELOAD": str(library), "KILL_AT": str(step)}
        daemon = DaemonProcess(config=config, env=env)
        daemon.start()
        try:
            await server.submit({"id": "j", "dag_name": "it"})
            survived = await finishes_first(server, daemon)
            if not survived:
                assert daemon.process.returncode == -9
                # A claim whose answer got lost comes again after its lease.
                await advance(server.lease_s + 1)
                daemon.env = {}
                daemon.start()
            result = await server.result("j")
            if not survived:
                await daemon.until_logged("daemon_ready", pid=daemon.process.pid)
                await until_settled(daemon)
                assert await to_thread.run_sync(daemon.stop) == 0
        finally:
            daemon.kill()
    assert (result["result_status"], result["finishes"] >= 1) == ("failed", True)
    assert "exit code 7" in result["result_summary"], result
    assert ledger.read_text().split() == ["j"]
    assert records_left(daemon.state) == []
    assert left_alive(config.parent) == []
    sweep.require(step, killed=not survived)


@pytest.mark.torture
@pytest.mark.timeout(3600)
async def test_killed_at_random_moments_while_many_jobs_pass(
    tmp_path: Path, torture: Torture
) -> None:
    chance = torture.chance("kills of a daemon")
    ledger = tmp_path / "ledger"
    script = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"; sleep "0.$(( $$ % 10 ))"; exit $(( ${#DISPATCHD_JOB_ID} % 2 ))'
    ids: list[str] = []
    kills = 0
    # A busy machine is killed before it has accepted, again and again.
    async with hub(tmp_path / "hub", lease_s=1, most_expiries=1000) as server:
        config = machine(
            tmp_path / "machine",
            server.url,
            ledger,
            script,
            "slots = 8\nqueue_ahead = 8",
        )
        daemon = DaemonProcess(config=config)
        try:
            while kills < KILLS * torture.size:
                if torture.is_over and kills >= LEAST_KILLS:
                    break
                for _ in range(1 + kills % 2):
                    ids.append(f"job-{len(ids)}")
                    await server.submit({"id": ids[-1], "dag_name": "it"})
                daemon.start()
                # The moment of a kill is announced by nothing.
                await anyio.sleep(chance.uniform(0.25, 0.9))
                daemon.kill()
                kills += 1
            daemon.start()
            results = {job_id: await server.result(job_id) for job_id in ids}
            await until_settled(daemon)
            await to_thread.run_sync(daemon.stop)
        finally:
            daemon.kill()
    print(f"killed {kills} times while {len(ids)} jobs passed")

    ran = Counter(ledger.read_text().split())
    assert {each: results[each] for each in ids if ran[each] != 1} == {}
    expected = {job_id: "failed" if len(job_id) % 2 else "succeeded" for job_id in ids}
    assert {
        job_id: result["result_status"] for job_id, result in results.items()
    } == expected
    assert records_left(daemon.state) == []
    assert left_alive(tmp_path / "machine") == []
