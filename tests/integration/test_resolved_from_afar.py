"""A machine carries out what a person has decided about a parked job at its endpoint: once, and about that stay alone."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from support.cli import command
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.hub import HubHere
from support.hub import hub as running_hub
from support.machine import row
from support.obstacle import Obstacle
from support.until import until

ASKS = """
if [ -e ask ] || [ "$DISPATCHD_ATTEMPT" = 1 ]; then
  echo '{"type": "block", "reason": "Which?"}' >>"$DISPATCHD_EVENTS"
fi
"""
WORKFLOWS = {"asks": ["/bin/sh", "-c", ASKS]}
JOB = {
    "id": "j",
    "dag_name": "asks",
    "claim_token": "claim-of-the-job",
    "lease_seconds": 3,
    "extensions": ["heartbeat", "resolve"],
}


def record(daemon: DaemonHere) -> dict[str, Any]:
    path = daemon.state / "jobs" / "j.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def attempts(daemon: DaemonHere) -> int:
    return len([*(daemon.state / "runs" / "j").glob("attempt-*")])


async def until_parked(daemon: DaemonHere, attempt: int = 1) -> None:
    await until(
        lambda: (
            record(daemon).get("phase") == "needs_attention"
            and len(record(daemon)["attempts"]) == attempt
        )
    )


@define
class Deciding:
    """An endpoint that answers each heartbeat of the parked job with a decision."""

    hub: Endpoint
    resolve: dict[str, Any]

    def __call__(self, request: Request) -> Answer | None:
        if request.call != "heartbeat" or "parked" not in request.body:
            return None
        return as_json({"resolve": {"parked": request.body["parked"], **self.resolve}})

    @property
    def stays(self) -> list[str]:
        """Names of the stays, in their order."""
        named = [each.body.get("parked") for each in self.hub.calls("heartbeat", "j")]
        return [*dict.fromkeys(name for name in named if name)]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, DaemonHere]]:
    async with endpoint() as hub:
        config = write_config(tmp_path / "machine", hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            yield hub, daemon


async def test_a_retry_passes_the_fence_again_and_runs_once(
    parts: tuple[Endpoint, DaemonHere],
) -> None:
    hub, daemon = parts
    hub.script = Deciding(hub, {"as": "retry", "note": "", "by": "alice"})
    hub.hand_out(JOB)

    [finished] = await hub.until_finished("j")

    assert finished["result_status"] == "succeeded"
    assert [each.job_id for each in hub.calls("accept")] == ["j", "j"]
    assert attempts(daemon) == 2


async def test_a_retry_that_the_disk_does_not_take_yet_leaves_the_job_its_lease(
    parts: tuple[Endpoint, DaemonHere],
) -> None:
    hub, daemon = parts
    hub.hand_out(JOB)
    await until_parked(daemon)
    obstacle = Obstacle(daemon.state / "jobs" / "j.json")
    obstacle.put_up()
    hub.script = Deciding(hub, {"as": "retry"})
    await daemon.until_logged("store_write_refused")

    before = len(hub.calls("heartbeat", "j"))
    await until(lambda: len(hub.calls("heartbeat", "j")) > before + 3)
    obstacle.take_away()
    await hub.until_finished("j")

    assert attempts(daemon) == 2


@pytest.mark.parametrize(
    ("decision", "status", "cause"),
    [("fail", "failed", "needs-input"), ("succeed", "succeeded", None)],
)
async def test_an_end_is_reported_with_who_and_why(
    parts: tuple[Endpoint, DaemonHere], decision: str, status: str, cause: str | None
) -> None:
    hub, daemon = parts
    hub.script = Deciding(hub, {"as": decision, "note": "I looked.", "by": "alice"})
    hub.hand_out(JOB)

    [finished] = await hub.until_finished("j")

    assert (finished["result_status"], finished.get("result_cause")) == (status, cause)
    assert "by a person at the endpoint: I looked." in finished["result_summary"]
    # Who it was is nothing for those who read the summary.
    assert "alice" not in finished["result_summary"]
    assert (await daemon.until_logged("job_resolved_at_endpoint"))["by"] == "alice"
    assert attempts(daemon) == 1


async def test_what_comes_late_or_twice_does_not_touch_the_next_stay(
    parts: tuple[Endpoint, DaemonHere],
) -> None:
    hub, daemon = parts
    hub.hand_out(JOB)
    await until_parked(daemon)
    (daemon.state / "runs/j/workspace/ask").touch()
    deciding = Deciding(hub, {"as": "retry", "by": "alice"})
    await hub.until(lambda _: len(deciding.stays) == 1)
    first = {"as": "retry", "parked": deciding.stays[0]}

    hub.script = Deciding(hub, first)
    await until_parked(daemon, attempt=2)
    beats = len(hub.calls("heartbeat", "j"))
    await hub.until(lambda e: len(e.calls("heartbeat", "j")) >= beats + 3)

    assert record(daemon)["phase"] == "needs_attention"
    assert attempts(daemon) == 2
    assert len(deciding.stays) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"resolve": {"parked": "another stay", "as": "retry"}},
        {"resolve": {"parked": "", "as": "retry"}},
        {"resolve": {"as": "postpone"}},
        {"resolve": None},
    ],
)
async def test_what_is_not_about_this_stay_or_not_known_changes_nothing(
    parts: tuple[Endpoint, DaemonHere], answer: dict[str, Any]
) -> None:
    hub, daemon = parts

    def script(request: Request) -> Answer | None:
        if request.call == "heartbeat" and "parked" in request.body:
            resolve = answer["resolve"]
            if resolve is not None:
                resolve = {"parked": request.body["parked"], **resolve}
            return as_json({"resolve": resolve})
        return None

    hub.script = script
    hub.hand_out(JOB)
    await until_parked(daemon)
    await hub.until(lambda e: len(e.calls("heartbeat", "j")) >= 6)

    assert record(daemon)["phase"] == "needs_attention"
    assert attempts(daemon) == 1


async def test_a_cancel_goes_first(parts: tuple[Endpoint, DaemonHere]) -> None:
    hub, daemon = parts

    def script(request: Request) -> Answer | None:
        if request.call != "heartbeat" or "parked" not in request.body:
            return None
        resolve = {"parked": request.body["parked"], "as": "retry"}
        return as_json({"cancel_requested": True, "resolve": resolve})

    hub.script = script
    hub.hand_out(JOB)

    [finished] = await hub.until_finished("j")

    assert finished["result_status"] == "aborted"
    assert attempts(daemon) == 1


async def test_an_endpoint_that_has_not_shown_it_is_told_no_name_and_not_obeyed(
    parts: tuple[Endpoint, DaemonHere],
) -> None:
    hub, daemon = parts

    def script(request: Request) -> Answer | None:
        if request.call != "heartbeat":
            return None
        parked_at = record(daemon).get("steps", [{}])[-1].get("at", "x")
        return as_json({"resolve": {"parked": parked_at, "as": "succeed"}})

    hub.script = script
    hub.hand_out({**JOB, "extensions": ["heartbeat"]})
    await until_parked(daemon)
    await hub.until(lambda e: len(e.calls("heartbeat", "j")) >= 5)

    assert not any("parked" in each.body for each in hub.calls("heartbeat", "j"))
    assert record(daemon)["phase"] == "needs_attention"


async def test_a_stay_keeps_its_name_over_a_restart(tmp_path: Path) -> None:
    async with endpoint() as hub:
        deciding = Deciding(hub, {"as": "succeed"})
        config = write_config(tmp_path / "machine", hub.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await until_parked(daemon)
            await hub.until(lambda _: bool(deciding.stays))
            await daemon.crash()
        hub.script = deciding
        async with running_daemon(config) as daemon:
            await hub.until_finished("j")

    assert len(deciding.stays) == 1
    assert attempts(daemon) == 1


async def running(server: HubHere, daemon: DaemonHere) -> None:
    await server.submit({"id": "j", "dag_name": "asks"})
    await until_parked(daemon)

    async def has_stay() -> bool:
        return bool((await row(server, "j"))["parked"])

    await until(has_stay)


async def test_the_hubs_decision_arrives_without_waiting_for_the_next_heartbeat(
    tmp_path: Path,
) -> None:
    async with running_hub(tmp_path / "hub", lease_s=86_400) as server:
        config = write_config(tmp_path / "machine", server.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await running(server, daemon)

            done = await command(
                *("hub", "resolve", "j", "--retry", "--note", "Now."),
                cwd=server.folder,
            )
            job = await server.result("j")

    assert done.returncode == 0, done.stderr
    assert (job["state"], job["decision"]["state"]) == ("succeeded", "sent")
    assert attempts(daemon) == 2


@pytest.mark.parametrize("is_first", [True, False])
async def test_of_a_decision_here_and_one_there_exactly_one_counts(
    tmp_path: Path, *, is_first: bool
) -> None:
    async with running_hub(tmp_path / "hub", lease_s=86_400) as server:
        config = write_config(tmp_path / "machine", server.url, WORKFLOWS)
        async with running_daemon(config) as daemon:
            await running(server, daemon)
            here = ("resolve", "j", "--fail", "--config", str(config))
            if is_first:
                await server.http.post("/api/v1/jobs/j/resolve", json={"as": "succeed"})
                await until(lambda: record(daemon).get("phase") != "needs_attention")
                local = await command(*here)
            else:
                local = await command(*here)
                await server.result("j")
                there = await server.http.post(
                    "/api/v1/jobs/j/resolve", json={"as": "succeed"}
                )
                assert there.status_code == 410
            job = await server.result("j")

    assert job["state"] == ("succeeded" if is_first else "failed")
    assert (local.returncode == 0) is not is_first
    assert attempts(daemon) == 1
