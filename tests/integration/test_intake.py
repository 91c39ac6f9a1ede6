"""Drain, pause and resume: what is taken, what goes back, what ends, and that it lasts."""

import json
from pathlib import Path
from typing import Any

import anyio

from support.cli import Done
from support.cli import command as dispatchd
from support.clock import advance
from support.control import call, until_status
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import endpoint
from support.obstacle import Obstacle

WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done; exit 3"]
LEASED = {
    "lease_seconds": 60,
    "claim_token": "token",
    "extensions": ["heartbeat", "release"],
}


def job(job_id: str, **more: Any) -> dict[str, Any]:
    return {"id": job_id, "dag_name": "it", **more}


def let_go(daemon: DaemonHere, job_id: str) -> None:
    (daemon.state / "runs" / job_id / "workspace" / "go").touch()


async def command(daemon: DaemonHere, *words: str) -> Done:
    return await dispatchd(*words, "--config", str(daemon.config))


async def test_a_paused_machine_takes_nothing_and_goes_on_with_what_it_has(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("first"))
            await daemon.until_logged("job_attempt_started", job_id="first")

            paused = await command(daemon, "pause", "--reason", "new disk")
            # Queue ahead would take it.
            await until_status(
                daemon, lambda s: "paused" in s["loops"]["pull"], skip_s=1
            )
            polls = len(hub.calls("pull"))
            hub.hand_out(job("second"))
            let_go(daemon, "first")
            await hub.until_finished("first")
            status = await call(daemon, "GET", "/v1/status")
            shown = await command(daemon, "status")
            polls_after = len(hub.calls("pull"))
            await command(daemon, "resume")
            await daemon.until_logged("job_attempt_started", job_id="second")
            let_go(daemon, "second")
            await hub.until_finished("second")

    assert paused.stdout == "paused\n"
    assert polls_after == polls
    assert status["ready"] is False
    assert status["problems"] == [
        "paused by an operator (new disk); `dispatchd resume` ends that"
    ]
    assert status["intake"]["mode"] == "paused"
    assert shown.returncode == 0


async def test_a_drain_hands_back_what_has_not_started_and_waits_for_the_rest(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1", runs="queue_ahead = 3"
        )
        async with running_daemon(config) as daemon, anyio.create_task_group() as tasks:
            hub.hand_out(job("runs", **LEASED))
            await daemon.until_logged("job_attempt_started", job_id="runs")
            hub.hand_out(job("waits", **LEASED))
            hub.hand_out(job("stays"))
            await daemon.until_logged("job_accept_confirmed", job_id="waits")
            await daemon.until_logged("job_accept_confirmed", job_id="stays")
            drained: list[Done] = []

            async def drain() -> None:
                drained.append(await command(daemon, "drain", "--reason", "reboot"))

            tasks.start_soon(drain)
            await hub.until(lambda e: bool(e.calls("release", "waits")))
            let_go(daemon, "runs")
            # Nobody else can have it: this endpoint takes it back from nobody.
            await daemon.until_logged("job_attempt_started", job_id="stays")
            assert not drained
            let_go(daemon, "stays")
            await hub.until_finished("runs", "stays")
            await until_status(daemon, lambda s: not s["intake"]["left"])

    assert drained[0].returncode == 0
    assert drained[0].stdout.splitlines()[-1] == "drained"
    assert not hub.calls("release", "stays")
    assert "waits" not in hub.finished


async def test_a_drain_lasts_over_a_restart_until_somebody_ends_it(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 1"
        )
        async with running_daemon(config) as daemon:
            await command(daemon, "drain")
        # The next one says anew that it is ready.
        daemon.log_file.unlink()
        hub.hand_out(job("later"))
        polls = len(hub.calls("pull"))
        async with running_daemon(config) as daemon:
            status = await until_status(
                daemon, lambda s: "draining" in s["loops"]["pull"]
            )
            assert len(hub.calls("pull")) == polls
            again = await command(daemon, "drain", "--json")
            await command(daemon, "resume")
            await hub.until_finished("later")

    assert status["intake"]["mode"] == "draining"
    assert json.loads(again.stdout) == {"mode": "draining", "left": 0}


async def test_the_deadline_of_a_drain_ends_what_still_runs(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("runs"))
            await daemon.until_logged("job_attempt_started", job_id="runs")
            drained: list[Done] = []
            async with anyio.create_task_group() as tasks:

                async def drain() -> None:
                    drained.append(await command(daemon, "drain", "--deadline", "5m"))

                tasks.start_soon(drain)
                await until_status(daemon, lambda s: s["intake"]["mode"] == "draining")
                await advance(240)
                await until_status(daemon, lambda s: s["intake"]["left"] == 1)
                assert not hub.finished
                await advance(60)
                [finish] = await hub.until_finished("runs")

    assert drained[0].returncode == 0
    assert finish["result_status"] == "aborted"


async def test_the_deadline_counts_while_no_daemon_runs(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("runs"))
            await daemon.until_logged("job_attempt_started", job_id="runs")
            await command(daemon, "drain", "--deadline", "5m", "--no-wait")
            await daemon.crash()
            await advance(300)  # the deadline itself
            daemon.start()
            [finish] = await hub.until_finished("runs")

    assert finish["result_status"] == "aborted"


async def test_a_job_whose_pull_was_on_its_way_is_handed_back(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 30")
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: any(r.hold_s for r in e.calls("pull")))
            await command(daemon, "drain", "--no-wait")
            hub.hand_out(job("late", **LEASED))
            await hub.until(lambda e: bool(e.calls("release", "late")))
            status = await until_status(daemon, lambda s: not s["intake"]["left"])

    assert status["jobs"]["running"] == 0
    assert "late" not in hub.finished


async def test_a_damaged_record_of_a_drain_is_named_and_jobs_are_taken(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        (state / "intake.json").write_text("{")
        async with running_daemon(config) as daemon:
            line = await daemon.until_logged("intake_unreadable")
            hub.hand_out(job("it"))
            await hub.until_finished("it")

    assert "intake.json" in line["error"]


async def test_a_deadline_that_is_no_time_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9", {"it": WAITS})

    refused = await dispatchd("drain", "--deadline", "soon", "--config", str(config))

    assert refused.returncode == 64
    assert "10m" in refused.stderr


async def test_many_who_pause_and_resume_at_once_leave_one_will(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:

            async def change_often(client: int) -> None:
                for number in range(10):
                    path = "/v1/pause" if (client + number) % 2 else "/v1/resume"
                    reason = {"reason": f"{client}-{number}"}
                    await call(daemon, "POST", path, reason)

            async with anyio.create_task_group() as tasks:
                for client in range(12):
                    tasks.start_soon(change_often, client)

            told = (await call(daemon, "GET", "/v1/status"))["intake"]
            kept = json.loads((daemon.state / "intake.json").read_text())
            refused = [
                line for line in daemon.log() if line["event"] == "store_write_refused"
            ]

    assert not refused
    assert (kept.get("mode", "pulling"), kept["reason"]) == (
        told["mode"],
        told["reason"],
    )


async def test_a_job_that_is_not_on_disk_yet_keeps_a_machine_from_being_drained(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            obstacle = Obstacle(daemon.state / "jobs" / "j.json")
            obstacle.put_up()
            hub.hand_out(job("j"))
            await daemon.until_logged("store_write_refused")
            await call(daemon, "POST", "/v1/drain", {})
            before = await call(daemon, "GET", "/v1/status")
            obstacle.take_away()
            # Without a release it runs.
            await until_status(daemon, lambda s: s["intake"]["left"] == 0, skip_s=1)

    assert before["intake"]["left"] == 1
    assert "j" in hub.finished
