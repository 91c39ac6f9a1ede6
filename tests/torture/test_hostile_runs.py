"""Hostile runs chosen by chance beside good ones: every good job ends right, and nothing of a hostile one is left."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import define, field

from dispatchd.linux.landlock import able
from support.attacks import ATTACKS
from support.control import call
from support.daemon import write_config
from support.daemon_process import DaemonProcess, running_daemon
from support.endpoint import Endpoint, endpoint
from support.torture import Torture
from support.until import until

pytestmark = pytest.mark.skipif(able().abi < 6, reason="needs Landlock of Linux 6.12")

SMOKE_JOBS = 24
JOBS = 4_000
"""Good and hostile ones together (count)."""

AT_ONCE = 8
SENTINEL = "nobody has changed this"

GOOD = """
    echo "$DISPATCHD_RUN_ID" >mine; echo "mine=$DISPATCHD_RUN_ID" >>"$GITHUB_OUTPUT"
    sleep 0.0$((RANDOM_OF_JOB % 10)); test "$(cat mine)" = "$DISPATCHD_RUN_ID" || exit 99
    exit $((RANDOM_OF_JOB % 3))
"""


@define
class Battle:
    """Jobs of a daemon, of which some are hostile."""

    hub: Endpoint
    daemon: DaemonProcess
    chance: Random
    names: list[str] = field(factory=lambda: list(ATTACKS))
    wanted: dict[str, str] = field(factory=dict)
    """Good job -> the summary that it must have begun with."""
    hostile: dict[str, str] = field(factory=dict)
    """Hostile job -> its attack."""

    async def fight(self, jobs: int, until_over: Any) -> None:
        while self.count < jobs and not until_over():
            await self.hub.until(lambda e: self.count - len(e.finished) < AT_ONCE, 120)
            self._hand_out(self.count)
        await self.hub.until(lambda e: len(e.finished) == self.count, 180)

    @property
    def count(self) -> int:
        return len(self.wanted) + len(self.hostile)

    def _hand_out(self, number: int) -> None:
        drawn = self.chance.randrange(10**6)
        is_hostile = number % 2 == 1
        job_id = f"{'bad' if is_hostile else 'good'}-{number}"
        which = self.names[drawn % len(self.names)]
        if is_hostile:
            self.hostile[job_id] = which
        else:
            code = drawn % 3
            self.wanted[job_id] = "succeeded" if code == 0 else f"exit code {code}"
        self.hub.hand_out(
            {
                "id": job_id,
                "dag_name": "bad" if is_hostile else "good",
                "ref": f"refs/heads/{self.names.index(which) if is_hostile else drawn}",
            }
        )

    def judge(self) -> Counter[str]:
        """Look at what was reported of each job, and return how often each attack was tried."""
        for job_id, words in self.wanted.items():
            told = self.hub.finished[job_id]
            said = f"{told['result_status']}; {told['result_summary']}"
            assert words in said, (job_id, told)
            assert told["result_outputs"] == {"mine": job_id}, (job_id, told)
        for job_id, attack in self.hostile.items():
            told = self.hub.finished[job_id]
            assert told["result_status"] == "failed", (attack, told)
            assert SENTINEL not in str(told), (attack, told)
        return Counter(self.hostile.values())


def script_of(attacks: Iterable[str]) -> str:
    """Return one script with all attacks, of which a job's ref chooses one."""
    cases = "\n".join(f"{n}) {text}\n;;" for n, text in enumerate(attacks))
    return f"""
R=$(dirname "$DISPATCHD_WORKSPACE"); RUN=$R EVENT=$GITHUB_EVENT_PATH FILES=$DISPATCHD_ATTEMPT_FOLDER/run
DAEMON=$(cat "$PIDS/daemon"); OTHER=$(cat "$PIDS/other"); export RUN EVENT FILES DAEMON OTHER
case ${{GITHUB_REF##*/}} in
{cases}
esac
exit 98
"""


def left_by(state: Path) -> list[str]:
    """Return the command lines of live processes that belong to runs of a state folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if str(state).encode() in (each / "environ").read_bytes():
                found.append((each / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


async def battle(tmp_path: Path, chance: Random, jobs: int, until_over: Any) -> None:
    pids, secrets = tmp_path / "pids", tmp_path / "secrets"
    pids.mkdir()
    secrets.mkdir()
    (secrets / "secret").write_text(SENTINEL)
    attacks, good = tmp_path / "attacks.sh", tmp_path / "good.sh"
    attacks.write_text(script_of(ATTACKS.values()))
    good.write_text(GOOD)
    state = tmp_path / "state"
    env = {
        "STATE": str(state),
        "SECRETS": str(secrets),
        "PIDS": str(pids),
        "PYTHON": sys.executable,
        "DAEMON_HOME": str(Path.home()),
        "ABSTRACT": "dispatchd-test-nobody-listens",
        "DISK": str(next(Path("/dev").glob("[nsv][dv]*a*"), "/dev/sda")),
    }
    lines = ", ".join(f'{name} = "{value}"' for name, value in env.items())
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {
                "good": [
                    "/bin/sh",
                    "-c",
                    f'RANDOM_OF_JOB=${{GITHUB_REF##*/}}; . "{good}"',
                ],
                "bad": ["/bin/sh", str(attacks)],
            },
            limits=f'env = {{ {lines} }}\nread_paths = ["{pids}", "{attacks}", "{good}"]\nmax_duration_s = 20\nkill_grace_s = 1',
            runs="slots = 4\nqueue_ahead = 4\npids_max = 0",
            isolation="sandbox",
        )
        async with running_daemon(config) as daemon:
            (pids / "daemon").write_text(str(daemon.process.pid))
            (pids / "other").write_text(str(os.getpid()))
            fight = Battle(hub, daemon, chance)
            await fight.fight(jobs, until_over)
            tried = fight.judge()
            with suppress(AssertionError):
                await until(lambda: not left_by(state), 60)
            assert left_by(state) == []
            status = await call(daemon, "GET", "/v1/status")
            assert status["ready"], status["problems"]
            assert status["jobs"]["running"] == 0
        bugs = [line for line in daemon.log() if line["event"] == "bug"]
        refused = [
            line for line in daemon.log() if line["event"] == "store_write_refused"
        ]
    assert not bugs
    assert not refused
    assert (secrets / "secret").read_text() == SENTINEL
    assert not (state / "pwned").exists()
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):  # where nothing must be left
        assert not list(Path(folder).glob("left-by-a-run-*"))
    print(
        f"{len(fight.wanted)} good jobs; attacks: {sum(tried.values())} of {len(tried)}"
    )


async def test_hostile_runs_harm_no_good_one(tmp_path: Path) -> None:
    await battle(tmp_path, Random(os.urandom(8)), SMOKE_JOBS, lambda: False)


@pytest.mark.torture
@pytest.mark.timeout(7200)
async def test_hostile_runs_harm_no_good_one_for_long(
    tmp_path: Path, torture: Torture
) -> None:
    if shutil.which("strace") is None:
        print("without strace one attack is weaker")
    chance = torture.chance("hostile runs")
    await battle(tmp_path, chance, JOBS * torture.size, lambda: torture.is_over)
