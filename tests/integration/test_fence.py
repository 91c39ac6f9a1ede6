"""No process begins of a job that may be somebody else's by now: restarts, silence, slow starts, new claims."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.clock import advance, loop, threads_are_idle
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.git_server import git_server
from support.hub import hub as running_hub
from support.machine import Machine, row
from support.until import in_time, until

LEASE_S = 60
WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"]
QUICK = ["/bin/sh", "-c", "echo ran"]
WORKFLOWS = {"waits": WAITS, "quick": QUICK}
ALL = ("heartbeat", "release")


def job(job_id: str, workflow: str, claim: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "dag_name": workflow,
        "claim_token": f"{job_id}-{claim}",
        "lease_seconds": LEASE_S,
        "extensions": [],
        **more,
    }


def let_go(daemon: DaemonHere, job_id: str) -> None:
    (daemon.state / "runs" / job_id / "workspace" / "go").touch()


def has_run(daemon: DaemonHere, job_id: str) -> bool:
    outputs = (daemon.state / "runs" / job_id).glob("attempt-*/output.log")
    return any("ran" in each.read_text() for each in outputs)


def refuse(endpoint: Endpoint, job_id: str, status: int, *calls: str) -> None:
    """Answer calls about a job by a status from now on."""

    def script(request: Request) -> Answer | None:
        if request.job_id == job_id and request.call in calls:
            return as_json({"message": "no"}, status)
        return None

    endpoint.script = script


async def one_runs_and_one_waits(
    daemon: DaemonHere, hub: Endpoint, **more: Any
) -> None:
    hub.hand_out(job("runs", "waits"))
    await daemon.until_logged("job_attempt_started", job_id="runs")
    hub.hand_out(job("later", "quick", **more))
    await daemon.until_logged("job_accept_confirmed", job_id="later")


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_what_was_lost_while_it_waited_for_a_slot_does_not_start(
    tmp_path: Path, status: int
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub)
            refuse(hub, "later", status, "accept")
            await advance(LEASE_S)
            let_go(daemon, "runs")
            await daemon.until_logged("job_accept_refused", job_id="later")

            assert not has_run(daemon, "later")
    assert "later" not in hub.finished


async def test_a_word_that_is_young_enough_is_not_asked_for_again(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub)
            await advance(LEASE_S / 2)
            let_go(daemon, "runs")
            await hub.until_finished("later")

    assert len(hub.calls("accept", "later")) == 1


async def test_heartbeats_keep_a_waiting_job_startable(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub, extensions=["heartbeat"])
            for _ in range(3):
                beats = len(hub.calls("heartbeat", "later"))
                await advance(LEASE_S / 2)
                await hub.until(
                    lambda e, n=beats: len(e.calls("heartbeat", "later")) > n  # type: ignore[misc]
                )
            let_go(daemon, "runs")
            await hub.until_finished("later")

    assert len(hub.calls("accept", "later")) == 1


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_without_an_answer_it_waits(tmp_path: Path, status: int) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub)
            refuse(hub, "later", status, "accept")
            await advance(LEASE_S)
            let_go(daemon, "runs")
            await daemon.until_logged("report_failed", job_id="later")
            assert not has_run(daemon, "later")

            hub.script = None
            await in_time(lambda: "later" in hub.finished)

    assert hub.finished["later"]["result_status"] == "succeeded"


@pytest.mark.parametrize("lease_s", [LEASE_S, None])
async def test_after_a_restart_a_job_with_a_lease_is_asked_for_and_one_without_starts(
    tmp_path: Path, lease_s: float | None
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub, lease_seconds=lease_s)
        let_go(daemon, "runs")
        refuse(hub, "later", 410, "accept")
        daemon.log_file.unlink()
        async with running_daemon(config) as daemon:
            if lease_s is None:
                await hub.until_finished("later")
            else:
                await daemon.until_logged("job_accept_refused", job_id="later")

            assert has_run(daemon, "later") is (lease_s is None)
    asked_again = len(hub.calls("accept", "later")) > 1
    assert asked_again is (lease_s is not None)


async def test_another_attempt_is_one_more_start(tmp_path: Path) -> None:
    fails = ["/bin/sh", "-c", "echo ran; kill -KILL $$"]
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"fails": fails},
            runs="retry_wait_s = 300",
            limits="max_retries = 1",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "fails"))
            await daemon.until_logged("job_attempt_failed")
            refuse(hub, "j", 409, "accept")
            await advance(300)
            await daemon.until_logged("job_accept_refused")

            assert not (daemon.state / "runs/j/attempt-2").exists()


async def test_a_new_claim_is_accepted_before_a_waiting_job_starts_also_after_a_kill(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS, runs="queue_ahead = 3")
        async with running_daemon(config) as daemon:
            await one_runs_and_one_waits(daemon, hub, lease_seconds=None)
            refuse(hub, "later", 503, "accept")
            hub.hand_out(job("later", "quick", "2", lease_seconds=None))
            await daemon.until_logged("job_redelivered", job_id="later")
            await daemon.crash()
            let_go(daemon, "runs")
            asked = len(hub.calls("accept", "later"))
            daemon.log_file.unlink()
            daemon.start()
            await daemon.until_logged("daemon_ready")
            await hub.until(lambda e: len(e.calls("accept", "later")) > asked)
            await hub.until_finished("runs")
            assert not has_run(daemon, "later")

            hub.script = None
            await in_time(lambda: "later" in hub.finished)

    assert hub.accepted["later"]["claim_token"] == "later-2"
    assert hub.finished["later"]["claim_token"] == "later-2"


async def test_a_machine_that_was_off_for_longer_than_its_lease_runs_nothing_that_another_has_run(
    tmp_path: Path,
) -> None:
    async with running_hub(tmp_path / "hub") as server:
        config = write_config(tmp_path / "machine", server.url, WORKFLOWS)
        other = Machine(http=server.http, name="m2")

        async def is_queued() -> bool:
            return str((await row(server, "later"))["state"]) == "queued"

        async with running_daemon(config) as daemon:
            await server.submit({"id": "runs", "dag_name": "waits"})
            await daemon.until_logged("job_attempt_started", job_id="runs")
            await server.submit({"id": "later", "dag_name": "quick"})
            await daemon.until_logged("job_accept_confirmed", job_id="later")
            await daemon.crash()
            # Longer than any machine may be silent, whether its first heartbeats have arrived or not.
            await advance(server.unheard_s + server.lease_s + 1)
            await until(is_queued)
            for _ in range(2):
                held = await other.pull()
                await held.accept()
                await held.finish()
            let_go(daemon, "runs")
            daemon.log_file.unlink()
            daemon.start()
            # It asks for the claim again: no accept under a lease outlives its daemon.
            await daemon.until_logged("job_accept_refused", job_id="later")
            await daemon.until_logged("job_finish_refused", job_id="runs")

    assert not has_run(daemon, "later")


# While an attempt is being started


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_lease_that_is_lost_during_a_checkout_ends_the_start(
    tmp_path: Path, status: int
) -> None:
    with git_server(tmp_path / "served") as server:
        shas = server.create("o/r")
        server.open_gate.clear()
        async with endpoint() as hub:
            limits = f'checkout = true\ncheckout_url = "{server.url}"'
            config = write_config(tmp_path, hub.url, WORKFLOWS, limits=limits)
            async with running_daemon(config) as daemon:
                source = {"repository_name": "o/r", "sha": shas[0]}
                hub.hand_out(job("j", "quick", **source, extensions=["heartbeat"]))
                await until(lambda: bool(server.requests))
                refuse(hub, "j", status, "heartbeat")
                await advance(LEASE_S / 6)
                lost = await daemon.until_logged("job_lease_lost")
                server.open_gate.set()
                await until(
                    lambda: (
                        not any((daemon.state / "runs/j/workspace").iterdir())
                        if (daemon.state / "runs/j/workspace").exists()
                        else True
                    )
                )
                # It may come again, and runs then.
                hub.script = None
                hub.hand_out(job("j", "quick", "2", **source))
                await hub.until_finished("j")

    assert lost["phase"] == "history"
    assert hub.finished["j"]["result_status"] == "succeeded"
    assert len(list((daemon.state / "runs/j").glob("attempt-*/exit"))) == 1


async def test_a_stop_during_a_checkout_hands_the_job_back(tmp_path: Path) -> None:
    with git_server(tmp_path / "served") as server:
        shas = server.create("o/r")
        server.open_gate.clear()
        async with endpoint() as hub:
            limits = f'checkout = true\ncheckout_url = "{server.url}"'
            config = write_config(tmp_path, hub.url, WORKFLOWS, limits=limits)
            async with running_daemon(config) as daemon:
                source = {"repository_name": "o/r", "sha": shas[0]}
                hub.hand_out(job("j", "quick", **source, extensions=["release"]))
                await until(lambda: bool(server.requests))
                await daemon.stop()
            server.open_gate.set()

    assert [request.job_id for request in hub.calls("release")] == ["j"]
    assert not hub.finished
    assert not [*(daemon.state / "runs/j").glob("attempt-*/exit")]
    left = daemon.state / "runs/j/workspace"
    assert not (left.exists() and [*left.iterdir()])


@pytest.mark.parametrize("status", [204, 409, 503])
async def test_after_a_checkout_that_outlasts_the_lease_the_endpoint_is_asked(
    tmp_path: Path, status: int
) -> None:
    with git_server(tmp_path / "served") as server:
        shas = server.create("o/r")
        server.open_gate.clear()
        async with endpoint() as hub:
            limits = (
                f'checkout = true\ncheckout_url = "{server.url}"\nmax_duration_s = 3600'
            )
            config = write_config(tmp_path, hub.url, WORKFLOWS, limits=limits)
            async with running_daemon(config) as daemon:
                hub.hand_out(job("j", "quick", repository_name="o/r", sha=shas[0]))
                await until(lambda: bool(server.requests))
                await advance(LEASE_S)
                if status != 204:
                    refuse(hub, "j", status, "accept")
                server.open_gate.set()
                if status == 409:
                    await daemon.until_logged("job_accept_refused")
                    assert not has_run(daemon, "j")
                else:
                    if status == 503:
                        await daemon.until_logged("start_given_up")
                        await daemon.until_logged("report_failed")
                        assert not has_run(daemon, "j")
                        hub.script = None
                    await in_time(lambda: "j" in hub.finished)
                    assert has_run(daemon, "j")

    assert len(hub.calls("accept", "j")) >= 2
    assert ("j" in hub.finished) is (status != 409)


@pytest.mark.parametrize("then", [204, 409])
async def test_an_answer_at_the_gate_that_outlasts_the_lease_is_asked_for_again(
    tmp_path: Path, then: int
) -> None:
    def script(request: Request) -> Answer | None:
        if request.call != "accept":
            return None
        count = len(hub.calls("accept", "j"))
        if count == 2:
            # Asked in time and answered too late, as by a slow endpoint or while the machine was suspended.
            loop().skip(LEASE_S)
        return as_json({"message": "no"}, then) if count > 2 and then != 204 else None

    with git_server(tmp_path / "served") as server:
        shas = server.create("o/r")
        server.open_gate.clear()
        async with endpoint() as hub:
            hub.script = script
            limits = f"""checkout = true
                checkout_url = "{server.url}"
                max_duration_s = 3600"""
            config = write_config(
                tmp_path,
                hub.url,
                WORKFLOWS,
                limits=limits,
                cloud="call_timeout_s = 120",
            )
            async with running_daemon(config) as daemon:
                hub.hand_out(job("j", "quick", repository_name="o/r", sha=shas[0]))
                await until(lambda: bool(server.requests))
                await advance(LEASE_S)
                server.open_gate.set()
                if then == 204:
                    await hub.until_finished("j")
                else:
                    await daemon.until_logged("job_accept_refused", job_id="j")

    assert len(hub.calls("accept", "j")) > 2
    assert has_run(daemon, "j") is (then == 204)


@pytest.mark.parametrize("when", ["waiting", "starting"])
async def test_a_wish_to_cancel_that_an_accept_brings_is_obeyed(
    tmp_path: Path, when: str
) -> None:
    def script(request: Request) -> Answer | None:
        first = len(hub.calls("accept", "j")) == 1
        if request.call != "accept" or (when == "starting" and first):
            return None
        return as_json({"cancel_requested": True})

    with git_server(tmp_path / "served") as server:
        shas = server.create("o/r")
        server.open_gate.clear()
        async with endpoint() as hub:
            hub.script = script
            limits = (
                f'checkout = true\ncheckout_url = "{server.url}"\nmax_duration_s = 3600'
            )
            config = write_config(tmp_path, hub.url, WORKFLOWS, limits=limits)
            async with running_daemon(config) as daemon:
                hub.hand_out(job("j", "quick", repository_name="o/r", sha=shas[0]))
                if when == "starting":
                    await until(lambda: bool(server.requests))
                    await advance(LEASE_S)
                server.open_gate.set()
                finished = (await hub.until_finished("j"))[0]

    assert (finished["result_status"], finished["result_cause"]) == (
        "aborted",
        "cancelled",
    )
    assert not has_run(daemon, "j")


async def test_a_secret_that_takes_its_time_is_no_run_either(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, WORKFLOWS, limits='secrets = { KEY = "key" }'
        )
        fifo = tmp_path / "go"
        with config.open("a") as file:
            file.write(
                f'\n[secrets.key]\ncommand = ["/bin/sh", "-c", "while ! [ -e {fifo} ]; do sleep 0.02; done; echo 1"]\n'
            )
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "quick", extensions=["heartbeat"]))
            await daemon.until_logged("job_attempt_starting")
            refuse(hub, "j", 409, "heartbeat")
            await advance(LEASE_S / 6)
            await daemon.until_logged("job_lease_lost")
            fifo.touch()

    assert not has_run(daemon, "j")
    assert "j" not in hub.finished


# A lease that nothing can begin under


@pytest.mark.parametrize(
    ("lease_s", "extensions"), [(1e-9, []), (0.001, ["heartbeat"])]
)
async def test_under_a_lease_that_is_over_at_once_nothing_starts_and_the_endpoint_is_not_flooded(
    tmp_path: Path, lease_s: float, extensions: list[str]
) -> None:
    times: dict[str, list[float]] = {"accept": [], "heartbeat": []}

    def script(request: Request) -> Answer | None:
        if request.call in times:
            times[request.call].append(loop().time())
            # The answer takes longer than the lease.
            loop().skip(0.005)
        return None

    async def asked_enough() -> bool:
        # Small steps where the pauses are short.
        await advance(0.1 if len(times["accept"]) <= 3 else 1)
        await threads_are_idle()
        return len(times["accept"]) >= 6

    async with endpoint() as hub:
        hub.script = script
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            more: dict[str, Any] = {"lease_seconds": lease_s, "extensions": extensions}
            hub.hand_out(job("j", "quick", **more))
            await until(asked_enough)
            first, *asked = times["accept"]
            pauses = [later - before for before, later in pairwise(asked)]
            warnings = [e for e in daemon.log() if e.get("event") == "lease_too_short"]

            assert not has_run(daemon, "j")
            # Of the timers of the event loop a part of a second may be missing.
            assert [round(each + 0.4) for each in pauses[:4]] >= [1, 2, 4, 8]
            assert len(times["heartbeat"]) <= 2 * (asked[-1] - first) + 4
            assert [each["job_id"] for each in warnings] == ["j"]

            # Once the lease is long enough, the job runs.
            hub.script = None
            hub.hand_out(job("j", "quick", "2"))
            await in_time(lambda: "j" in hub.finished)

    assert has_run(daemon, "j")


def started(daemon: DaemonHere) -> set[str]:
    """Return the jobs with a process so far."""
    return {
        str(each["job_id"])
        for each in daemon.log()
        if each.get("event") == "job_attempt_started"
    }


async def test_a_lease_that_is_over_between_the_slots_is_asked_for_at_once(
    tmp_path: Path,
) -> None:
    """Nobody has waited for a lease that has run out for want of a slot, so nothing is said of it."""
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS, runs="queue_ahead = 9")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("runs", "waits"))
            await daemon.until_logged("job_attempt_started", job_id="runs")
            for number in range(4):
                hub.hand_out(job(f"w{number}", "waits"))
                await daemon.until_logged("job_accept_confirmed", job_id=f"w{number}")
            done: list[str] = []
            while len(done) < 5:
                running = await until(lambda: next(iter(started(daemon) - {*done}), ""))
                await advance(LEASE_S)
                let_go(daemon, running)
                await hub.until_finished(running)
                done.append(running)

            assert not [e for e in daemon.log() if e.get("event") == "lease_too_short"]
