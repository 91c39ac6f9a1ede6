"""The power goes wherever it can: nothing that was acknowledged is lost, nothing runs twice, nothing is unreported."""

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from support.clock import advance
from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.hub import hub
from support.leftovers import (
    end_left_alive,
    finishes_first,
    records_left,
    until_settled,
)
from support.power_cut import restore
from support.torture import Sweep

RUNS = """
echo "$DISPATCHD_JOB_ID" >>"$LEDGER"
echo "answer=42" >>"$GITHUB_OUTPUT"
echo "# Told" >>"$GITHUB_STEP_SUMMARY"
exit 7
"""

ONE_JOB = Sweep(least=26, most=46)
"""At step 26 the evidence of the end is durable, and the outcome isn't yet. A job that nothing disturbs has 29."""


@pytest.mark.parametrize(("sweep", "step"), ONE_JOB.smoke(12, 22, 26))
async def test_the_power_goes_before_a_few_steps(
    tmp_path: Path, power_cut: Path, sweep: Sweep, step: int
) -> None:
    await run_despite_a_cut(tmp_path, power_cut, sweep, step)


@pytest.mark.parametrize(("sweep", "step"), ONE_JOB.every_step())
async def test_the_power_goes_before_every_step(
    tmp_path: Path, power_cut: Path, sweep: Sweep, step: int
) -> None:
    await run_despite_a_cut(tmp_path, power_cut, sweep, step)


async def run_despite_a_cut(
    folder: Path, library: Path, sweep: Sweep, step: int
) -> None:
    """Take one job through a daemon whose machine loses its power, and the daemon after it."""
    ledger, noted = folder / "ledger", folder / "noted"
    noted.mkdir()
    ledger.touch()
    async with hub(folder / "hub") as server:
        config = write_config(
            folder / "machine",
            server.url,
            {"it": ["/bin/sh", "-c", RUNS]},
            cloud="hold_s = 5\npoll_interval_s = 0.5",
            limits=f'env = {{ LEDGER = "{ledger}" }}',
        )
        env = {
            "LD_PRELOAD": str(library),
            "CUT_AT": str(step),
            "CUT_FOLDER": str(noted),
            "CUT_BELOW": str(folder / "machine" / "state"),
        }
        daemon = DaemonProcess(config=config, env=env)
        daemon.state.mkdir()
        daemon.start()
        try:
            await server.submit({"id": "j", "dag_name": "it"})
            survived = await finishes_first(server, daemon)
            if not survived:
                # All that ran has gone with the power.
                end_left_alive(config.parent)
                restore(daemon.state, noted)
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
    check(result, ledger.read_text().split())
    assert records_left(daemon.state) == []
    assert list((daemon.state / "quarantine").iterdir()) == []
    sweep.require(step, killed=not survived)


def check(result: dict[str, Any], ran: list[str]) -> None:
    assert result["result_status"] == "failed"
    assert len(ran) <= 1
    if "exit code 7" in result["result_summary"]:
        assert ran == ["j"]
        # Whoever says how it ended also has what it told.
        assert result["result_outputs"] == {"answer": "42"}, result
        assert result["result_step_summary"] == "# Told\n"
    else:
        assert "lost" in result["result_summary"], result
