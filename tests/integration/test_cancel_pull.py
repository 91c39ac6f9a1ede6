"""A machine that takes no jobs still hears of cancel jobs, where the endpoint knows such questions."""

from pathlib import Path
from typing import Any

import pytest

from dispatchd import __version__
from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, Request, endpoint
from support.obstacle import Obstacle
from support.until import in_time

WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"]
FULL = "slots = 1\nqueue_ahead = 0"


def job(job_id: str, **more: Any) -> dict[str, Any]:
    return {"id": job_id, "dag_name": "it", "extensions": ["capabilities"], **more}


def cancel_of(job_id: str, name: str = "c") -> dict[str, Any]:
    return {"id": name, "command": "cancel", "dag_run_id": job_id}


def is_for_cancels(request: Request) -> bool:
    return request.call == "pull" and request.body.get("workflows") == []


def for_cancels(hub: Endpoint) -> list[Request]:
    return [each for each in hub.requests if is_for_cancels(each)]


async def until_running(daemon: DaemonHere, hub: Endpoint, **more: Any) -> None:
    hub.hand_out(job("j", **more))
    await daemon.until_logged("job_attempt_started", job_id="j")


async def test_a_job_in_place_of_a_cancel_job_keeps_a_machine_from_being_drained(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        hub.knows_lists = False
        config = write_config(tmp_path, hub.url, {"it": WAITS}, runs=FULL)
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub)
            await hub.until(lambda e: bool(for_cancels(e)))
            obstacle = Obstacle(daemon.state / "jobs" / "more.json")
            obstacle.put_up()
            hub.hand_out(job("more"))
            await daemon.until_logged("store_write_refused")
            await call(daemon, "POST", "/v1/drain", {})
            draining = await call(daemon, "GET", "/v1/status")
            obstacle.take_away()
            await daemon.until_logged("job_accept_confirmed", job_id="more")
            await call(daemon, "POST", "/v1/resume", {})
            for name in ("j", "more"):
                await daemon.until_logged("job_attempt_started", job_id=name)
                (daemon.state / "runs" / name / "workspace" / "go").touch()
            await hub.until_finished("j", "more")

    # The one that runs, and the one that isn't on disk yet.
    assert draining["intake"]["left"] == 2


async def test_a_full_machine_is_told_of_a_cancel_job_and_gets_nothing_else(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, runs=FULL)
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub)
            await hub.until(lambda e: bool(for_cancels(e)))
            hub.hand_out(job("next"))
            hub.hand_out(cancel_of("j"))
            target, cancel = await hub.until_finished("j", "c")
            # There is room again.
            await daemon.until_logged("job_attempt_started", job_id="next")
            (daemon.state / "runs/next/workspace/go").touch()
            await hub.until_finished("next")

    assert (target["result_status"], cancel["result_status"]) == (
        "aborted",
        "succeeded",
    )


@pytest.mark.parametrize("how", ["pause", "drain"])
async def test_a_machine_out_of_service_is_told_too_and_after_a_restart(
    tmp_path: Path, how: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub)
            await call(daemon, "POST", f"/v1/{how}", {})
            await hub.until(lambda e: bool(for_cancels(e)))
        async with running_daemon(config) as daemon:
            seen = len(hub.requests)
            await hub.until(lambda e: any(map(is_for_cancels, e.requests[seen:])))
            hub.hand_out(cancel_of("j"))
            target, cancel = await hub.until_finished("j", "c")
            others = [
                each
                for each in hub.requests[seen:]
                if each.call == "pull" and not is_for_cancels(each)
            ]

    assert (target["result_status"], cancel["result_status"]) == (
        "aborted",
        "succeeded",
    )
    assert not others


async def test_an_endpoint_that_has_shown_nothing_is_not_asked(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, runs=FULL)
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub, extensions=["heartbeat"])
            await daemon.until_logged("pull_paused")
            await advance(600)
            (daemon.state / "runs/j/workspace/go").touch()
            await hub.until_finished("j")

    assert not for_cancels(hub)
    assert all("heartbeat" in each.body["extensions"] for each in hub.calls("pull"))
    said = [each.body["machine"] for each in hub.calls("pull")]
    assert {(each["version"], each["slots"]) for each in said} == {(__version__, 1)}
    assert all(each["free_bytes"] > 0 for each in said)


async def test_an_endpoint_that_ignores_the_list_is_asked_once_and_its_job_is_kept(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        hub.knows_lists = False
        config = write_config(tmp_path, hub.url, {"it": WAITS}, runs=FULL)
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub)
            hub.hand_out(job("more"))
            await daemon.until_logged("cancel_only_pull_ignored", job_id="more")
            await daemon.until_logged("job_accept_confirmed", job_id="more")
            await advance(600)
            asked = len(for_cancels(hub))
            for name in ("j", "more"):
                await daemon.until_logged("job_attempt_started", job_id=name)
                (daemon.state / "runs" / name / "workspace" / "go").touch()
            await hub.until_finished("j", "more")

    assert asked == 1


async def test_a_poll_that_fails_is_repeated(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, runs=FULL)
        async with running_daemon(config) as daemon:
            await until_running(daemon, hub)
            await hub.until(lambda e: bool(for_cancels(e)))
            hub.cut_held_polls()
            hub.hand_out(cancel_of("j"))
            await in_time(lambda: {"j", "c"} <= hub.finished.keys())

    assert hub.finished["j"]["result_status"] == "aborted"
