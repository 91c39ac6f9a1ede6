"""Deadlines are kept by whichever daemon is there when they come, to within a second."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import endpoint
from support.until import until

LATE_S = 60.0
"""How late a deadline may be kept on a busy machine (seconds); the deadlines are much longer."""

Json = dict[str, Any]


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def record_when(
    daemon: DaemonHere, job_id: str, condition: Callable[[Json], bool]
) -> Json:
    """Return the record of a job, tracked or past, once it is as wanted."""
    paths = [daemon.state / each / f"{job_id}.json" for each in ("jobs", "history")]

    def wanted() -> Json | None:
        for path in paths:
            try:
                found: Json = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            if condition(found):
                return found
        return None

    return await until(wanted, 60) or {}


async def restart(daemon: DaemonHere, away_s: float = 0.0) -> datetime:
    """End the daemon where it stands, let some time pass, and return when the next one is ready."""
    await daemon.crash()
    await advance(away_s)
    daemon.log_file.unlink()
    daemon.start()
    line = await daemon.until_logged("daemon_ready")
    return datetime.fromisoformat(line["timestamp"])


def seconds(later: str, earlier: str) -> float:
    return (
        datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    ).total_seconds()


async def test_a_retry_wait_goes_on_after_a_restart(tmp_path: Path) -> None:
    jobs = [f"j{number}" for number in range(8)]
    script = 'if [ "$DISPATCHD_ATTEMPT" = 1 ]; then kill -KILL $$; fi'
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": sh(script)},
            runs="slots = 8\nqueue_ahead = 8\nretry_wait_s = 300",
            limits="max_retries = 1",
        )
        async with running_daemon(config) as daemon:
            for job_id in jobs:
                hub.hand_out({"id": job_id, "dag_name": "it"})
            waiting = [
                await record_when(
                    daemon,
                    each,
                    lambda record: "retry_at" in record or record["phase"] == "history",
                )
                for each in jobs
            ]
            ready_at = await restart(daemon)
            for at, job_id in sorted(
                (it["retry_at"], it["job"]["id"]) for it in waiting if "retry_at" in it
            ):
                await advance(max(0.0, seconds(at, daemon.time.now())))
                await hub.until_finished(job_id)
            finished = await hub.until_finished(*jobs)
            ended = [
                await record_when(
                    daemon, each, lambda record: record["phase"] == "history"
                )
                for each in jobs
            ]

    # Jitter may have made some due before the restart; it is out of the question that all were.
    kept = [
        seconds(after["attempts"][1]["started_at"], before["retry_at"])
        for before, after in zip(waiting, ended, strict=True)
        if before.get("retry_at", "") > ready_at.isoformat()
    ]
    assert kept
    assert all(0 <= late < LATE_S for late in kept)
    assert [len(each["attempts"]) for each in ended] == [2] * len(jobs)
    assert {each["result_status"] for each in finished} == {"succeeded"}


@pytest.mark.parametrize(
    ("limits", "cause", "limit_s"),
    [
        ("max_duration_s = 400", "max-duration", 400),
        ("inactivity_s = 400", "inactivity-timeout", 400),
    ],
)
async def test_a_watchdog_fires_in_time_after_a_restart(
    tmp_path: Path, limits: str, cause: str, limit_s: float
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": sh("echo hello; sleep 300")}, limits=limits
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await restart(daemon, away_s=limit_s / 2)
            assert (
                "stop_at" not in (await record_when(daemon, "j", bool))["attempts"][0]
            )
            await advance(limit_s / 2)
            finished = (await hub.until_finished("j"))[0]
            record = await record_when(daemon, "j", lambda it: it["phase"] == "history")

    attempt = record["attempts"][0]
    assert finished["result_cause"] == cause
    assert len(record["attempts"]) == 1
    assert 0 <= seconds(attempt["stop_at"], attempt["started_at"]) - limit_s < LATE_S


@pytest.mark.parametrize("limits", ["max_duration_s = 400", "inactivity_s = 400"])
async def test_an_end_that_nobody_has_seen_counts_although_a_watchdog_would_be_due(
    tmp_path: Path, limits: str
) -> None:
    script = "echo hello; until [ -e end ]; do sleep 0.05; done; exit 7"
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": sh(script)}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await daemon.crash()
            run = daemon.state / "runs/j"
            (run / "workspace/end").touch()
            await until((run / "attempt-1/exit").exists)
            await advance(800)
            daemon.start()
            finished = (await hub.until_finished("j"))[0]
            record = await record_when(daemon, "j", lambda it: it["phase"] == "history")

    assert finished["result_cause"] == "exit-code"
    assert "exit code 7" in finished["result_summary"]
    assert len(record["attempts"]) == 1
    assert "stop_at" not in record["attempts"][0]


async def test_output_and_events_put_the_inactivity_watchdog_off(
    tmp_path: Path,
) -> None:
    event = '{"type": "progress", "completed": 1, "in_progress": 1, "total": 2}'
    script = (
        "for n in 1 2 3 4 5 6; do sleep 0.5; echo out; done; "
        "for n in 1 2 3 4 5 6; do "
        f"sleep 0.5; echo '{event}' >>\"$DISPATCHD_EVENTS\"; done"
    )
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": sh(script)}, limits="inactivity_s = 2.5"
        )
        # In real time: the kernel dates what a run writes, and its clock is nobody's to move.
        async with running_daemon(config):
            hub.hand_out({"id": "j", "dag_name": "it"})
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "succeeded"


async def test_a_kill_grace_goes_on_after_a_restart(tmp_path: Path) -> None:
    grace_s = 400
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": sh(script)}, limits=f"kill_grace_s = {grace_s}"
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            output = daemon.state / "runs/j/attempt-1/output.log"
            await record_when(daemon, "j", lambda _: output.exists())
            await record_when(daemon, "j", lambda _: "ready" in output.read_text())
            hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
            await record_when(daemon, "j", lambda it: "stop_at" in it["attempts"][0])
            # A grace that began anew would be late by this.
            await restart(daemon, away_s=grace_s / 2)
            await advance(grace_s / 2)
            finished = (await hub.until_finished("j"))[0]
            record = await record_when(daemon, "j", lambda it: it["phase"] == "history")

    attempt = record["attempts"][0]
    assert finished["result_status"] == "aborted"
    assert "SIGKILL" in finished["result_summary"]
    assert 0 <= seconds(attempt["ended_at"], attempt["stop_at"]) - grace_s < LATE_S


async def test_what_waits_too_long_for_a_slot_is_given_up(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"long": sh("sleep 300")},
            limits="queue_timeout_s = 200",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "first", "dag_name": "long"})
            hub.hand_out({"id": "second", "dag_name": "long"})
            await hub.until(lambda it: "second" in it.accepted)
            await restart(daemon, away_s=100)
            assert "second" not in hub.finished
            await advance(100)
            finished = (await hub.until_finished("second"))[0]
            record = await record_when(
                daemon, "second", lambda it: it["phase"] == "history"
            )
            hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "first"})
            await hub.until_finished("first")

    assert finished["result_cause"] == "queue-timeout"
    assert "attempts" not in record
    decided = next(each["at"] for each in record["steps"] if each["event"] == "decided")
    assert 0 <= seconds(decided, record["received_at"]) - 200 < LATE_S
