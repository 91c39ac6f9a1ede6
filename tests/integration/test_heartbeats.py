"""Heartbeats: from the accept at once, until the finish has been answered, and each job for itself."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from dispatchd.concurrency.bug_fence import BugFence
from support.clock import LongPauses, advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.hub import hub as running_hub
from support.machine import row
from support.until import in_time, until
from support.waits import finishes

LEASE_S = 60
WORKFLOWS = {
    "waits": ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"],
    "quick": ["/bin/true"],
}


def job(job_id: str, workflow: str, **more: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "dag_name": workflow,
        "claim_token": f"claim-{job_id}",
        "lease_seconds": LEASE_S,
        "extensions": ["heartbeat"],
        **more,
    }


def let_go(daemon: DaemonHere, job_id: str) -> None:
    (daemon.state / "runs" / job_id / "workspace" / "go").touch()


def phases(hub: Endpoint, job_id: str) -> list[str]:
    return [each.body["phase"] for each in hub.calls("heartbeat", job_id)]


def refuse(hub: Endpoint, status: int, *calls: tuple[str, str]) -> None:
    def script(request: Request) -> Answer | None:
        if (request.call, request.job_id) in calls:
            return as_json({"message": "no"}, status)
        return None

    hub.script = script


async def test_the_first_beat_follows_the_accept_without_time_passing(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "waits", lease_seconds=86_400))
            await hub.until(lambda e: bool(e.calls("heartbeat", "j")))
            asked = [each.call for each in hub.requests if each.job_id == "j"]
            let_go(daemon, "j")
            await hub.until_finished("j")

    assert asked[:2] == ["accept", "heartbeat"]


async def test_each_change_of_the_phase_is_told_without_time_passing(
    tmp_path: Path,
) -> None:
    tries = (
        'n=$DISPATCHD_ATTEMPT; until [ -e "told-$n" ]; do sleep 0.02; done; '
        '[ "$n" = 2 ] && exit 3; kill -9 $$'
    )
    workflows = {"agent": ["/bin/sh", "-c", tries]}
    options = 'contract = "headless"\nmax_retries = 1\n'
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, workflows, limits=options)
        async with running_daemon(config, bugs=BugFence(LongPauses())) as daemon:
            workspace = daemon.state / "runs" / "j" / "workspace"
            hub.hand_out(job("j", "agent", lease_seconds=86_400))
            await hub.until(lambda e: phases(e, "j")[-1:] == ["running"])
            (workspace / "told-1").touch()
            await hub.until(lambda e: phases(e, "j")[-1:] == ["retry_wait"])
            await advance(60)
            await hub.until(lambda e: phases(e, "j")[-1:] == ["running"])
            (workspace / "told-2").touch()
            await hub.until(lambda e: phases(e, "j")[-1:] == ["needs_attention"])

    told = [each for each, _ in groupby(phases(hub, "j"))]
    assert told[-4:] == ["running", "retry_wait", "running", "needs_attention"]


async def test_a_run_is_running_for_the_hub_as_soon_as_it_has_begun(
    tmp_path: Path,
) -> None:
    async with running_hub(tmp_path / "hub", lease_s=86_400) as hub:
        config = write_config(tmp_path / "machine", hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            reply = await hub.http.post("/api/v1/jobs", json={"dag_name": "waits"})
            job_id = reply.json()["id"]

            async def is_running() -> bool:
                return bool((await row(hub, job_id))["state"] == "running")

            await until(is_running)
            let_go(daemon, job_id)
            await hub.result(job_id)


async def test_a_daemon_that_starts_again_says_so_at_once(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "waits", lease_seconds=86_400))
            await hub.until(lambda e: bool(e.calls("heartbeat", "j")))
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: len(e.calls("heartbeat", "j")) == 2)
            let_go(daemon, "j")
            await hub.until_finished("j")


async def next_beat(hub: Endpoint) -> None:
    """Move time on until the job j beats once more."""
    beats = len(phases(hub, "j"))
    await in_time(lambda: len(phases(hub, "j")) > beats)


@pytest.mark.parametrize("status", [403, 413, 422, 500])
async def test_a_job_whose_finish_is_refused_goes_on_beating(
    tmp_path: Path, status: int
) -> None:
    async with endpoint() as hub:
        refuse(hub, status, ("finish", "j"))
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "quick"))
            await daemon.until_logged("report_failed")
            for _ in range(4):
                await next_beat(hub)
            hub.script = None
            await finishes(hub, daemon, "j")
            seen = len(phases(hub, "j"))
            await daemon.until_logged("job_finish_acknowledged")
            await advance(LEASE_S)

    assert phases(hub, "j")[-1] == "finishing"
    assert len(phases(hub, "j")) <= seen + 1


async def test_a_beat_that_its_finish_overtakes_is_no_lost_lease(
    tmp_path: Path,
) -> None:
    def overtaken(request: Request) -> Answer | None:
        if request.call == "finish":
            return as_json({"message": "later"}, 503)
        if request.call == "heartbeat" and request.body["phase"] == "finishing":
            return as_json({"message": "the job has finished as succeeded"}, 410)
        return None

    async with endpoint() as hub:
        hub.script = overtaken
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "quick"))
            await in_time(lambda: "finishing" in phases(hub, "j"))
            hub.script = None
            (finish,) = await finishes(hub, daemon, "j")
            events = {line.get("event") for line in daemon.log()}

    assert finish["result_status"] == "succeeded"
    assert "lease_lost" not in events


async def test_a_cancel_comes_too_late_for_what_is_being_reported(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        refuse(hub, 500, ("finish", "j"))
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "quick"))
            await daemon.until_logged("report_failed")
            hub.cancelled.add("j")
            for _ in range(2):
                await next_beat(hub)
            hub.script = None
            await finishes(hub, daemon, "j")
            events = {each.get("event") for each in daemon.log()}

    assert hub.finished["j"]["result_status"] == "succeeded"
    assert "job_cancel_requested" not in events


async def test_one_refused_heartbeat_is_about_one_job_also_without_claim_tokens(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS, runs="slots = 2")
        async with running_daemon(config) as daemon:
            for name in ("lost", "kept"):
                hub.hand_out(job(name, "waits", claim_token=""))
                await daemon.until_logged("job_attempt_started", job_id=name)
                await hub.until(lambda e, n=name: bool(e.calls("heartbeat", n)))  # type: ignore[misc]
            # Before the command has begun a refused beat would end the start.
            refuse(hub, 409, ("heartbeat", "lost"))
            await advance(LEASE_S / 6)
            await daemon.until_logged("lease_lost", job_id="lost")
            refused, beats = len(phases(hub, "lost")), len(phases(hub, "kept"))
            await advance(LEASE_S / 6)
            await hub.until(lambda e: len(phases(e, "kept")) > beats)
            assert len(phases(hub, "lost")) == refused

            # It is this machine's again, and says so.
            hub.script = None
            hub.hand_out(job("lost", "waits", claim_token=""))
            await hub.until(lambda e: len(phases(e, "lost")) > refused)
            for name in ("lost", "kept"):
                let_go(daemon, name)
            await hub.until_finished("lost", "kept")


async def test_a_new_claim_of_a_lost_job_beats_before_its_accept_is_answered(
    tmp_path: Path,
) -> None:
    """A refusal is about its own claim: without beats the next lease would be lost like the last one."""
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "waits"))
            await daemon.until_logged("job_attempt_started")
            refuse(hub, 409, ("heartbeat", "j"))
            await advance(LEASE_S / 6)
            await daemon.until_logged("lease_lost")
            refuse(hub, 503, ("accept", "j"))
            hub.hand_out(job("j", "waits", claim_token="second"))
            await daemon.until_logged("job_redelivered")
            await advance(LEASE_S / 6)
            await hub.until(lambda e: "second" in claims(e))
            let_go(daemon, "j")
            hub.script = None
            await hub.until_finished("j")


def claims(hub: Endpoint) -> list[str]:
    return [each.body["claim_token"] for each in hub.calls("heartbeat", "j")]


async def test_a_machine_that_dies_after_its_accept_keeps_its_job_no_longer_than_others(
    tmp_path: Path,
) -> None:
    async with running_hub(tmp_path / "hub") as server:
        config = write_config(tmp_path / "machine", server.url, WORKFLOWS)

        async def state() -> str:
            return str((await row(server, "j"))["state"])

        async def is_running() -> bool:
            return await state() == "running"

        async def is_queued() -> bool:
            return await state() == "queued"

        async with running_daemon(config) as daemon:
            await server.submit({"id": "j", "dag_name": "waits"})
            await until(is_running)
            await daemon.crash()
            await advance(server.lease_s + server.patience_s + 1)
            await until(is_queued)
            let_go(daemon, "j")


@pytest.mark.parametrize("room", ["slots = 2", "slots = 1\nqueue_ahead = 0"])
async def test_a_cancel_ends_the_held_poll_and_is_heard_of_without_time_passing(
    tmp_path: Path, room: str
) -> None:
    """A machine with room holds a poll for jobs, a full one a poll for cancel jobs alone."""
    async with running_hub(tmp_path / "hub", lease_s=86_400) as server:
        config = write_config(
            tmp_path / "machine", server.url, WORKFLOWS, runs=room, cloud="hold_s = 50"
        )
        async with running_daemon(config) as daemon:
            reply = await server.http.post("/api/v1/jobs", json={"dag_name": "waits"})
            job_id = reply.json()["id"]
            await daemon.until_logged("job_attempt_started", job_id=job_id)

            async def is_held() -> bool:
                is_running = (await row(server, job_id))["state"] == "running"
                metrics = (await server.http.get("/metrics")).text
                return is_running and "dispatchd_hub_held_polls 1.0" in metrics

            await until(is_held)
            await server.http.post(f"/api/v1/jobs/{job_id}/cancel")
            # The next beat is due after 30 s, and nobody moves time on.
            result = await server.result(job_id, within_s=20)

    assert result["state"] == "aborted"
