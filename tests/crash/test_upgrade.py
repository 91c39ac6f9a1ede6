"""The daemon is stopped and started anew again and again under load: nothing lost, run twice, or killed."""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from attrs import frozen

from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.hub_process import hub

JOBS = 500
UPGRADES = 30
EVERY_S = 2.0
LONG_EVERY = 16
"""Every so many-th job lives for 3 to 7 s, longer than several daemons; with the others that is work for a minute."""

# dash and bash open `>>` with O_APPEND and write each line with one write(2), so lines of many runs don't mix.
QUICK = """
echo "$DISPATCHD_JOB_ID $$ start" >>"$LEDGER"
sleep "0.$(( 3 + GITHUB_PR_NUMBER % 7 ))"
echo "$DISPATCHD_JOB_ID end" >>"$LEDGER"
exit $(( GITHUB_PR_NUMBER % 3 ))
"""
LONG = QUICK.replace(
    '"0.$(( 3 + GITHUB_PR_NUMBER % 7 ))"', "$(( 3 + GITHUB_PR_NUMBER % 5 ))"
)


@frozen
class Work:
    """A job by its number, and what has to become of it."""

    number: int

    @property
    def id(self) -> str:
        return f"job-{self.number}"

    @property
    def is_long(self) -> bool:
        return self.number % LONG_EVERY == 0

    @property
    def exit_code(self) -> int:
        return self.number % 3

    @property
    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "dag_name": "long" if self.is_long else "quick",
            "pull_request_number": self.number,
        }

    def agrees_with(self, result: dict[str, Any]) -> bool:
        """Return whether the hub was told the exit code that the command had."""
        if self.exit_code == 0:
            return bool(result["result_status"] == "succeeded")
        told = f"exit code {self.exit_code}" in result["result_summary"]
        return told and bool(result["result_status"] == "failed")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_job_notices_that_the_daemon_is_upgraded_every_two_seconds(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    works = [Work(number) for number in range(1, JOBS + 1)]
    async with hub(tmp_path / "hub", lease_s=2) as server:
        for work in works:
            await server.submit(work.document)
        daemon = DaemonProcess(config=machine(tmp_path / "machine", server.url, ledger))
        try:
            codes = await upgrades(daemon)
            daemon.start()
            await daemon.until_logged("daemon_ready", pid=daemon.process.pid)
            results = {work.id: await server.result(work.id) for work in works}
            await until_settled(daemon)
            codes.append(await to_thread.run_sync(daemon.stop))
        finally:
            daemon.kill()
    lines = [line.split() for line in ledger.read_text().splitlines()]
    left = [stop["left_running"] for stop in logged(daemon, "daemon_stopped")]
    handed_back = len(logged(daemon, "job_released"))
    print(f"runs alive at the stops: {left}; jobs handed back at them: {handed_back}")

    once = dict.fromkeys((work.id for work in works), 1)
    assert Counter(line[0] for line in lines if line[-1] == "start") == once
    assert Counter(line[0] for line in lines if line[-1] == "end") == once
    assert [w.id for w in works if not w.agrees_with(results[w.id])] == []
    assert codes == [0] * (UPGRADES + 1)
    assert (sum(left) >= UPGRADES, handed_back > 0) == (True, True), "no load"


def machine(folder: Path, url: str, ledger: Path) -> Path:
    return write_config(
        folder,
        url,
        {"quick": ["/bin/sh", "-c", QUICK], "long": ["/bin/sh", "-c", LONG]},
        runs="slots = 8\nqueue_ahead = 8",
        limits=f'env = {{ LEDGER = "{ledger}" }}',
    )


async def upgrades(daemon: DaemonProcess) -> list[int]:
    """Start and stop a daemon in a steady rhythm; return its exit codes."""
    codes = []
    began = anyio.current_time()
    for upgrade in range(UPGRADES):
        daemon.start()
        await daemon.until_logged("daemon_ready", pid=daemon.process.pid)
        # The rhythm is the load itself: nothing is waited for here.
        await anyio.sleep(began + EVERY_S * (upgrade + 1) - anyio.current_time())
        codes.append(await to_thread.run_sync(daemon.stop))
    return codes


def logged(daemon: DaemonProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line.get("event") == event]


async def until_settled(daemon: DaemonProcess) -> None:
    """Wait until the acknowledgement of every finish is on disk."""
    with anyio.fail_after(20):
        while any((daemon.state / "jobs").glob("*.json")):
            await anyio.sleep(0.02)
