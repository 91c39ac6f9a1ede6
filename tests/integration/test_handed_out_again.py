"""A job that is handed out again: what its machine owes for it outlasts a kill, and nobody else is given it meanwhile."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.clock import advance, loop, threads_are_idle
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.until import in_time, until

LEASE_S = 60
COMMANDS = {
    "quick": ["/bin/sh", "-c", "echo ran"],
    "waits": ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"],
    "fails": ["/bin/sh", "-c", "echo ran; kill -KILL $$"],
}


def job(claim: str, workflow: str = "quick", **more: Any) -> dict[str, Any]:
    return {
        "id": "j",
        "dag_name": workflow,
        "claim_token": claim,
        "lease_seconds": LEASE_S,
        "extensions": ["heartbeat", "release"],
        **more,
    }


def refuse(hub: Endpoint, *calls: str) -> None:
    """Answer some calls with 503 from now on."""

    def script(request: Request) -> Answer | None:
        return as_json({"message": "no"}, 503) if request.call in calls else None

    hub.script = script


@pytest.mark.parametrize("lease_s", [LEASE_S, None])
async def test_the_finish_of_a_past_job_is_owed_over_a_kill(
    tmp_path: Path, lease_s: float | None
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, COMMANDS)
        async with running_daemon(config) as daemon:
            hub.hand_out(job("first", lease_seconds=lease_s))
            await daemon.until_logged("job_finish_acknowledged")
            refuse(hub, "finish")
            hub.hand_out(job("second", lease_seconds=lease_s))
            await daemon.until_logged("job_redelivered")
            await daemon.crash()
            hub.script = None
            daemon.start()
            await hub.until(
                lambda e: e.finished.get("j", {}).get("claim_token") == "second"
            )

    assert len(hub.calls("accept")) == 1
    assert [each.name for each in (daemon.state / "runs/j").glob("attempt-*")] == [
        "attempt-1"
    ]


async def comes_again_and_no_finish_is_taken(hub: Endpoint, daemon: DaemonHere) -> None:
    """Hand out a past job under another claim, and refuse each finish from then on."""
    hub.hand_out(job("first"))
    await daemon.until_logged("job_finish_acknowledged")
    refuse(hub, "finish")
    hub.hand_out(job("second"))
    await daemon.until_logged("job_redelivered")


async def test_while_its_finish_is_refused_a_past_job_beats_under_its_new_claim(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(write_config(tmp_path, hub.url, COMMANDS)) as daemon,
    ):
        await comes_again_and_no_finish_is_taken(hub, daemon)
        for _ in range(3):
            beats = len(hub.calls("heartbeat"))

            async def has_beaten(before: int = beats) -> bool:
                await advance(1)
                return len(hub.calls("heartbeat")) > before

            await until(has_beaten)
        hub.script = None

        async def is_finished() -> bool:
            await advance(1)
            return hub.finished.get("j", {}).get("claim_token") == "second"

        await until(is_finished)

    beats_of = {each.body["claim_token"] for each in hub.calls("heartbeat")[-3:]}
    assert beats_of == {"second"}


async def test_the_repeated_finish_of_a_past_job_counts_as_unreported(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(write_config(tmp_path, hub.url, COMMANDS)) as daemon,
    ):
        await comes_again_and_no_finish_is_taken(hub, daemon)
        status = await call(daemon, "GET", "/v1/status")

        assert status["outbox"]["depth"] == 1
        # A stop would wait for the report.
        await daemon.crash()


@pytest.mark.parametrize("lease_s", [LEASE_S, None])
async def test_a_new_claim_is_accepted_before_the_next_attempt_also_after_a_kill(
    tmp_path: Path, lease_s: float | None
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            COMMANDS,
            runs="retry_wait_s = 300\nqueue_ahead = 3",
            limits="max_retries = 1",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(job("first", "fails", lease_seconds=lease_s))
            await daemon.until_logged("job_attempt_failed")
            refuse(hub, "accept")
            hub.hand_out(job("second", "fails", lease_seconds=lease_s))
            await daemon.until_logged("job_redelivered")
            await daemon.crash()
            record = json.loads((daemon.state / "jobs/j.json").read_text())
            assert record["phase"] == "pending_accept"
            asked_before = len(hub.calls("accept"))
            daemon.start()
            await hub.until(lambda e: len(e.calls("accept")) > asked_before)
            await advance(600)
            assert not (daemon.state / "runs/j/attempt-2").exists()

            hub.script = None
            await advance(600)
            await hub.until_finished("j")

    assert hub.accepted["j"]["claim_token"] == "second"
    assert hub.finished["j"]["claim_token"] == "second"


FIRST = {"claim_token": "", "lease_seconds": 0, "extensions": []}
"""What an endpoint of the first protocol says of a job."""


@pytest.mark.parametrize("status", [204, 409])
@pytest.mark.parametrize("more", [FIRST, {"lease_seconds": None}])
async def test_a_job_that_came_again_during_its_start_is_accepted_before_it_starts_after_a_kill(
    tmp_path: Path, more: dict[str, Any], status: int
) -> None:
    """Without a lease nothing but the record says that the accept of the new claim is still owed."""
    again = tmp_path / "again"
    slow = f"while ! [ -e {again} ]; do sleep 0.02; done; echo 1"
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, COMMANDS, limits='secrets = { KEY = "key" }'
        )
        with config.open("a") as file:
            command = json.dumps(["/bin/sh", "-c", slow])
            file.write(f"\n[secrets.key]\ncommand = {command}\n")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("first", **more))
            await daemon.until_logged("job_attempt_starting")
            refuse(hub, "accept")
            hub.hand_out(job("first", **{"claim_token": "second", **more}))
            await daemon.until_logged("job_redelivered")
            await daemon.crash()
            accepts = len(hub.calls("accept"))
            again.touch()
            daemon.start()
            await hub.until(lambda e: len(e.calls("accept")) > accepts)
            assert not [*(daemon.state / "runs/j").glob("attempt-*/exit")]

            hub.script = None
            if status == 409:
                hub.script = lambda request: (
                    as_json({"message": "no"}, 409)
                    if request.call == "accept"
                    else None
                )
                await daemon.until_logged("job_accept_refused")
            else:
                await hub.until_finished("j")

    begun = [*(daemon.state / "runs/j").glob("attempt-*/exit")]
    assert len(begun) == (status == 204)


async def test_a_job_that_came_again_during_its_run_is_accepted_before_its_next_attempt_after_a_kill(
    tmp_path: Path,
) -> None:
    fails = "while ! [ -e go ]; do sleep 0.02; done; echo ran; kill -KILL $$"
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"fails": ["/bin/sh", "-c", fails]},
            runs="retry_wait_s = 0.1",
            limits="max_retries = 1",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(job("first", "fails", lease_seconds=None))
            await daemon.until_logged("job_attempt_started")
            refuse(hub, "accept")
            hub.hand_out(job("second", "fails", lease_seconds=None))
            await daemon.until_logged("job_redelivered")
            await daemon.crash()
            accepts = len(hub.calls("accept"))
            (daemon.state / "runs/j/workspace/go").touch()
            daemon.start()
            await daemon.until_logged("job_attempt_failed")
            await hub.until(lambda e: len(e.calls("accept")) > accepts)
            assert not (daemon.state / "runs/j/attempt-2").exists()

            hub.script = None
            await hub.until_finished("j")

    assert hub.accepted["j"]["claim_token"] == "second"
    assert (daemon.state / "runs/j/attempt-2/exit").exists()


@pytest.mark.parametrize("has_begun", [True, False])
async def test_what_was_started_is_not_run_again_because_its_record_is_damaged(
    tmp_path: Path,
    has_begun: bool,  # noqa: FBT001  # a column of the table
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, COMMANDS)
        async with running_daemon(config) as daemon:
            if not has_begun:
                refuse(hub, "accept")
            hub.hand_out(job("first", "waits"))
            await daemon.until_logged(
                "job_attempt_started" if has_begun else "report_failed"
            )
            await daemon.crash()
            (daemon.state / "jobs/j.json").write_bytes(b"{")
            hub.script = None
            daemon.start()
            await daemon.until_logged("record_quarantined")
            hub.cut_held_polls()
            hub.hand_out(job("second", "waits"))
            await hub.until(
                lambda e: bool(e.calls("finish")) or len(e.calls("accept")) > 1
            )
            if not has_begun:
                await until((daemon.state / "runs/j/attempt-1").exists)
            (daemon.state / "runs/j/workspace/go").touch()
            finished = (await hub.until_finished("j"))[0]

    assert finished["claim_token"] == "second"
    how = "failed" if has_begun else "succeeded"
    assert finished["result_status"] == how
    if has_begun:
        assert finished["result_cause"] == "lost"
        assert "quarantine" in finished["result_summary"]


async def test_a_quarantine_that_cannot_be_looked_into_keeps_no_job_away(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(write_config(tmp_path, hub.url, COMMANDS)) as daemon,
    ):
        (daemon.state / "quarantine").rmdir()
        (daemon.state / "quarantine").touch()
        hub.hand_out(job("first"))
        finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "succeeded"


@pytest.mark.parametrize("refused", ["accept", "finish"])
async def test_an_endpoint_that_hands_out_one_job_at_each_poll_is_not_asked_without_a_pause(
    tmp_path: Path, refused: str
) -> None:
    """As an endpoint does that counts a job as handed out only once it has been accepted, or finished."""
    pulls: list[float] = []

    def script(request: Request) -> Answer | None:
        if request.call == "pull":
            pulls.append(loop().time())
            return as_json({"id": "j", "dag_name": "quick"})
        return as_json({"message": "no"}, 503) if request.call == refused else None

    async with endpoint() as hub:
        hub.script = script
        config = write_config(tmp_path, hub.url, COMMANDS)
        async with running_daemon(config) as daemon:

            async def is_named() -> bool:
                await advance(0.5)
                await threads_are_idle()
                return any(
                    each.get("event") == "job_handed_out_too_often"
                    for each in daemon.log()
                )

            await until(is_named)
            began, count = loop().time(), len(pulls)

            async def is_later() -> bool:
                await advance(0.5)
                await threads_are_idle()
                return loop().time() - began > 200

            await until(is_later)
            asked = len(pulls) - count
            # And what waits behind it comes within a minute or so.
            hub.script = None
            hub.hand_out({"id": "k", "dag_name": "quick"})
            await in_time(lambda: {"j", "k"} <= hub.finished.keys())

    # After 32 s at most, and then after 60 s at most, with jitter.
    assert 1 <= asked < 60
