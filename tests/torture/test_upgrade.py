"""The daemon is stopped and started anew again and again under load: nothing lost, run twice, or killed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from attrs import frozen

from support.daemon import write_config
from support.daemon_process import DaemonProcess
from support.hub import hub
from support.torture import Torture
from support.until import until

UPGRADES = 30
LEAST_UPGRADES = 5
"""How many there are, even if the time is over."""

SLOTS = 8
HELD = SLOTS + 1
"""How many jobs live until the first daemon has gone: they take each slot, and one waits for a slot."""

LONG_EVERY = 16
"""Every so many-th job lives for 3 to 7 s, longer than several daemons."""

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

HOLD = QUICK.replace(
    'sleep "0.$(( 3 + GITHUB_PR_NUMBER % 7 ))"',
    'while [ ! -e "$GATE" ]; do sleep 0.05; done',
)


@frozen(kw_only=True)
class Rhythm:
    """How often a daemon is upgraded, and how much it has to do."""

    every_s: float = 2.0
    least_s: float = 1.0
    """How long each daemon lives once it is ready, on a machine on which a start takes long."""
    jobs: int = 16
    """How many jobs are submitted for each upgrade; as many as a daemon ends before the next."""


@frozen
class Work:
    """A job by its number, and what has to become of it."""

    number: int

    @property
    def id(self) -> str:
        return f"job-{self.number}"

    @property
    def workflow(self) -> str:
        if self.number <= HELD:
            return "held"
        return "quick" if self.number % LONG_EVERY else "long"

    @property
    def exit_code(self) -> int:
        return self.number % 3

    @property
    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "dag_name": self.workflow,
            "pull_request_number": self.number,
        }

    def agrees_with(self, result: dict[str, Any]) -> bool:
        """Return whether the hub was told the exit code that the command had."""
        if self.exit_code == 0:
            return bool(result["result_status"] == "succeeded")
        told = f"exit code {self.exit_code}" in result["result_summary"]
        return told and bool(result["result_status"] == "failed")


async def test_no_job_notices_that_the_daemon_is_upgraded_a_few_times(
    tmp_path: Path,
) -> None:
    few = Rhythm(every_s=0.5, least_s=0.5, jobs=7)
    await upgrade_under_load(tmp_path, lambda done: done < 3, few)


@pytest.mark.torture(least_s=30)
@pytest.mark.timeout(3600)
async def test_no_job_notices_that_the_daemon_is_upgraded_every_two_seconds(
    tmp_path: Path, torture: Torture
) -> None:
    def goes_on(done: int) -> bool:
        if torture.is_over and done >= LEAST_UPGRADES:
            return False
        return done < UPGRADES * torture.size

    await upgrade_under_load(tmp_path, goes_on, Rhythm())


async def upgrade_under_load(
    tmp_path: Path, goes_on: Callable[[int], bool], rhythm: Rhythm
) -> None:
    """Upgrade a daemon while it works; what became of each job agrees with what its command did."""
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    works: list[Work] = []
    async with hub(tmp_path / "hub", lease_s=2) as server:

        async def submit(count: int) -> None:
            for _ in range(count):
                works.append(Work(len(works) + 1))
                await server.submit(works[-1].document)

        config = machine(tmp_path / "machine", server.url, LEDGER=ledger, GATE=gate)
        daemon = DaemonProcess(config=config)

        def is_full() -> bool:
            started = ledger.exists() and len(ledger.read_text().splitlines())
            return started == SLOTS and len(records(daemon)) == HELD

        # So that a few always wait.
        await submit(HELD)
        try:
            daemon.start()
            await until(is_full, 120, "all slots taken, and one job waiting")
            codes = [await to_thread.run_sync(daemon.stop)]
            # These runs end while no daemon is there.
            gate.touch()
            await submit(rhythm.jobs)
            while goes_on(len(codes)):
                await submit(rhythm.jobs)
                codes.append(await one_life(daemon, rhythm))
            upgrades = len(codes)
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
    assert codes == [0] * (upgrades + 1)
    assert (sum(left) >= upgrades, handed_back > 0) == (True, True), "no load"


def machine(folder: Path, url: str, **env: Path) -> Path:
    scripts = {"quick": QUICK, "long": LONG, "held": HOLD}
    told = ", ".join(f'{name} = "{value}"' for name, value in env.items())
    return write_config(
        folder,
        url,
        {name: ["/bin/sh", "-c", script] for name, script in scripts.items()},
        runs=f"slots = {SLOTS}\nqueue_ahead = 8",
        limits=f"env = {{ {told} }}",
    )


async def one_life(daemon: DaemonProcess, rhythm: Rhythm) -> int:
    """Start a daemon, let it work, and stop it; return its exit code."""
    began = anyio.current_time()
    daemon.start()
    await daemon.until_logged("daemon_ready", pid=daemon.process.pid)
    # The rhythm is the load itself: nothing is waited for here.
    spent_s = anyio.current_time() - began
    await anyio.sleep(max(rhythm.least_s, rhythm.every_s - spent_s))
    return await to_thread.run_sync(daemon.stop)


def logged(daemon: DaemonProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line.get("event") == event]


def records(daemon: DaemonProcess) -> list[Path]:
    return [*(daemon.state / "jobs").glob("*.json")]


async def until_settled(daemon: DaemonProcess) -> None:
    """Wait until the acknowledgement of every finish is on disk."""
    await until(lambda: not records(daemon), 20, "no records")
