"""The wall clock is set by hours while runs, retries and leases are going on: nothing fires early, nothing hangs."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dispatchd.linux.clock import MachineTime, SteadyClock
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import endpoint
from support.until import until

HOURS_3 = 3 * 3600
LIMIT_S = 120.0
LATE_S = 30.0
"""Far from the hours that the clock is set by, and far from what a busy machine adds."""


def configure(tmp_path: Path, url: str) -> Path:
    file = write_config(
        tmp_path / "machine", url, {}, runs="slots = 8\nqueue_ahead = 8"
    )
    workflows = {
        "long": ("sleep 300", f"max_duration_s = {LIMIT_S}"),
        "silent": ("sleep 300", f"inactivity_s = {LIMIT_S}"),
        "again": (
            'date +%s.%N >"began-$DISPATCHD_ATTEMPT"; [ "$DISPATCHD_ATTEMPT" = 2 ] || kill -KILL $$',
            "max_retries = 1",
        ),
    }
    tables = "".join(
        f'[workflows.{name}]\ncommand = ["/bin/sh", "-c", {json.dumps(script)}]\n{limits}\n'
        for name, (script, limits) in workflows.items()
    )
    file.write_text(
        file.read_text().replace("slots = 8", "slots = 8\nretry_wait_s = 80") + tables
    )
    return file


def record(daemon: DaemonHere, job_id: str) -> dict[str, Any]:
    for folder in ("jobs", "history"):
        path = daemon.state / folder / f"{job_id}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
    return {}


async def until_waiting(daemon: DaemonHere, job_id: str) -> datetime:
    """Return when the second attempt of a job is due."""

    def due() -> str | None:
        found = record(daemon, job_id)
        # Jitter can make it due at once.
        begun = len(found.get("attempts", [])) > 1
        return found.get("retry_at") or (str(now(daemon)) if begun else None)

    return datetime.fromisoformat(await until(due) or "")


def now(daemon: DaemonHere) -> datetime:
    """Return the time on the daemon's timeline, which nobody sets."""
    return datetime.fromtimestamp(daemon.time.wall() - daemon.time.wall_set_by_s, UTC)


@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarts"])
@pytest.mark.parametrize("jump_s", [HOURS_3, -HOURS_3], ids=["+3 h", "-3 h"])
async def test_the_wall_clock_is_set_by_hours(
    tmp_path: Path,
    jump_s: int,
    restarts: bool,  # noqa: FBT001  # a column of the table
) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url)
        async with running_daemon(config) as daemon:
            lease = {"claim_token": "t", "lease_seconds": 12}
            hub.hand_out(
                {"id": "l", "dag_name": "long", **lease, "extensions": ["heartbeat"]}
            )
            for job_id, workflow in (("s", "silent"), ("r1", "again"), ("r2", "again")):
                hub.hand_out({"id": job_id, "dag_name": workflow})
            for job_id in ("l", "s"):
                await daemon.until_logged("job_attempt_started", job_id=job_id)
            began = now(daemon)
            due = [await until_waiting(daemon, each) for each in ("r1", "r2")]

            daemon.time.wall_set_by_s = jump_s
            if restarts:
                await daemon.crash()
                hub.cut_held_polls()
                daemon.log_file.unlink()
                daemon.start()
                daemon.time.wall_set_by_s = jump_s
                await daemon.until_logged("daemon_ready")
            # Nothing fires early: heartbeats go on, and nothing else happens before it is due.
            first = len(hub.calls("heartbeat"))
            await advance(2)
            await hub.until(lambda it: len(it.calls("heartbeat")) > first)
            for at, job_id in sorted(zip(due, ("r1", "r2"), strict=True)):
                await advance(max(0.0, (at - now(daemon)).total_seconds()))
                await hub.until_finished(job_id)
            assert not {"l", "s"} & set(hub.finished)
            await advance(LIMIT_S - (now(daemon) - began).total_seconds())
            long, silent = await hub.until_finished("l", "s")
            again = await hub.until_finished("r1", "r2")
            ended = [record(daemon, each) for each in ("r1", "r2")]
            log = daemon.log()
            wall = daemon.time.wall()

    assert (long["result_cause"], silent["result_cause"]) == (
        "max-duration",
        "inactivity-timeout",
    )
    assert {each["result_status"] for each in again} == {"succeeded"}
    second = [datetime.fromisoformat(it["attempts"][1]["started_at"]) for it in ended]
    for at, wanted in zip(second, due, strict=True):
        assert -0.2 <= (at - wanted).total_seconds() <= LATE_S
    assert abs(wall - time.time() - jump_s) < 2 * LIMIT_S
    assert not [each for each in log if each.get("level") == "error"]


def test_a_new_boot_measures_the_clock_anew_and_the_same_one_counts_on(
    tmp_path: Path,
) -> None:
    first = SteadyClock.open(tmp_path)
    kept = json.loads((tmp_path / "clock.json").read_text())
    (tmp_path / "clock.json").write_text(json.dumps({**kept, "boot_at": 1000.0}))
    same_boot = SteadyClock.open(tmp_path)
    (tmp_path / "clock.json").write_text(
        json.dumps({"boot_id": "another", "boot_at": 1000.0})
    )
    new_boot = SteadyClock.open(tmp_path)

    assert abs((first.now() - first.wall()).total_seconds()) < LATE_S
    assert same_boot.now().year < 2000
    assert abs(new_boot.jump().total_seconds()) < LATE_S
    same_boot.settle()
    assert abs(same_boot.jump().total_seconds()) < LATE_S


BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"boot_id": 1}', "null", "[" * 100_000),
        *(
            f'{{"boot_id": "{BOOT_ID}", "boot_at": {boot_at}}}'
            for boot_at in ("1e300", "-1e12", "NaN", "9" * 400, "9" * 5_000)
        ),
    ],
)
def test_a_damaged_anchor_is_measured_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "clock.json").write_text(content)

    assert abs(SteadyClock.open(tmp_path).jump().total_seconds()) < LATE_S


def test_the_time_of_a_file_is_never_further_back_than_it_can_be(
    tmp_path: Path,
) -> None:
    clock = SteadyClock.open(tmp_path)
    now = time.time_ns()
    ahead = SteadyClock(tmp_path, MachineTime(), clock.boot_at + HOURS_3)
    behind = SteadyClock(tmp_path, MachineTime(), clock.boot_at - HOURS_3)

    for each in (clock, ahead, behind):
        silent_s = (each.now() - each.of_file(now)).total_seconds()
        assert -0.1 <= silent_s < LATE_S


@pytest.mark.parametrize("seconds", [-(1 << 62), -(1 << 40), 1 << 40, 1 << 62])
def test_a_file_with_a_time_that_no_calendar_has_counts_as_written_now(
    tmp_path: Path, seconds: int
) -> None:
    """A run can give its own files any time that the file system takes."""
    clock = SteadyClock.open(tmp_path)

    assert abs((clock.now() - clock.of_file(seconds * 10**9)).total_seconds()) < LATE_S
