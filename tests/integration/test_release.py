"""A release is durable before it is sent, and repeated until it is answered: nothing starts meanwhile."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, field
from typing_extensions import override

from dispatchd.concurrency.bug_fence import BugFence
from support.clock import advance, within
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.until import in_time

WORKFLOWS = {
    "waits": ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"],
    "quick": ["/bin/true"],
}
CUT = Answer(cut=True)
STALLS = Answer(
    status=200, body=b"{}", headers={"content-type": "application/json"}, stalls=True
)


def job(job_id: str, workflow: str) -> dict[str, Any]:
    return {
        "id": job_id,
        "dag_name": workflow,
        "claim_token": f"claim-{job_id}",
        "lease_seconds": 600,
        "extensions": ["heartbeat", "release"],
    }


def answer_releases(hub: Endpoint, answer: Answer | None) -> None:
    """Answer every release like this, and let what was released be nobody's business here any more."""

    def script(request: Request) -> Answer | None:
        if request.call == "release":
            return answer
        if hub.calls("release", request.job_id) and request.job_id:
            return as_json({"message": "another claim"}, 409)
        return None

    hub.script = script


@asynccontextmanager
async def one_runs_and_one_waits(
    tmp_path: Path, hub: Endpoint, **options: Any
) -> AsyncIterator[DaemonHere]:
    config = write_config(tmp_path, hub.url, WORKFLOWS, cloud="hold_s = 1")
    async with running_daemon(config, **options) as daemon:
        hub.hand_out(job("runs", "waits"))
        await daemon.until_logged("job_attempt_started", job_id="runs")
        hub.hand_out(job("later", "quick"))
        await daemon.until_logged("job_accept_confirmed", job_id="later")
        yield daemon


def let_go(daemon: DaemonHere) -> None:
    (daemon.state / "runs/runs/workspace/go").touch()


def has_begun(daemon: DaemonHere) -> bool:
    return (daemon.state / "runs/later/attempt-1").exists()


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_refused_release_says_that_the_claim_is_over(
    tmp_path: Path, status: int
) -> None:
    async with endpoint() as hub:
        answer_releases(hub, as_json({"message": "not yours"}, status))
        async with one_runs_and_one_waits(tmp_path, hub) as daemon:
            await call(daemon, "POST", "/v1/drain", {})
            refused = await daemon.until_logged("job_release_refused")
            let_go(daemon)
            await hub.until_finished("runs")

    assert refused["phase"] == "history"
    assert not has_begun(daemon)
    assert "later" not in hub.finished


@pytest.mark.parametrize("answer", [CUT, as_json({"message": "down"}, 503)])
async def test_a_release_without_an_answer_is_repeated_and_nothing_starts(
    tmp_path: Path, answer: Answer
) -> None:
    async with endpoint() as hub:
        answer_releases(hub, answer)
        async with one_runs_and_one_waits(tmp_path, hub) as daemon:
            await call(daemon, "POST", "/v1/drain", {})
            await daemon.until_logged("report_failed", job_id="later")
            let_go(daemon)
            await hub.until_finished("runs")
            await in_time(lambda: len(hub.calls("release", "later")) > 2)
            assert not has_begun(daemon)

            hub.script = None
            await in_time(lambda: "job_released" in _events(daemon))
            assert not has_begun(daemon)
    assert len(hub.calls("accept", "later")) == 1


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_the_next_daemon_repeats_a_release_that_nobody_answered(
    tmp_path: Path, how: str
) -> None:
    async with endpoint() as hub:
        answer_releases(hub, STALLS)
        async with one_runs_and_one_waits(tmp_path, hub) as daemon:
            if how == "stop":
                daemon.send(signal.SIGTERM)
                await hub.until(lambda e: bool(e.calls("release", "later")))
                # It waits for the answer only for so long.
                await in_time(lambda: not daemon.alive)
            else:
                await call(daemon, "POST", "/v1/pause", {})
                await call(daemon, "POST", "/v1/drain", {})
                await hub.until(lambda e: bool(e.calls("release", "later")))
                await daemon.crash()
            let_go(daemon)
            daemon.log_file.unlink()
            hub.script = None
            daemon.start()
            await daemon.until_logged("job_released", job_id="later")
            await hub.until_finished("runs")

    assert not has_begun(daemon)
    assert len(hub.calls("accept", "later")) == 1


async def test_a_release_that_hangs_keeps_nobody_from_the_job(tmp_path: Path) -> None:
    async with endpoint() as hub:
        answer_releases(hub, STALLS)
        async with one_runs_and_one_waits(tmp_path, hub) as daemon:
            await call(daemon, "POST", "/v1/drain", {})
            await hub.until(lambda e: bool(e.calls("release", "later")))

            with within(10):
                answered = await call(daemon, "POST", "/v1/jobs/later/cancel", {})

            hub.script = None
            let_go(daemon)
            daemon.send(signal.SIGTERM)
            await in_time(lambda: not daemon.alive)

    assert answered["phase"] == "finishing"
    assert not has_begun(daemon)


async def test_a_job_that_was_given_back_runs_when_it_comes_again(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub, one_runs_and_one_waits(tmp_path, hub) as daemon:
        await call(daemon, "POST", "/v1/drain", {})
        await daemon.until_logged("job_released", job_id="later")
        let_go(daemon)
        await hub.until_finished("runs")
        await call(daemon, "POST", "/v1/resume", {})
        hub.hand_out({**job("later", "quick"), "claim_token": "claim-2"})
        await hub.until_finished("later")

    assert hub.finished["later"]["claim_token"] == "claim-2"


async def test_a_job_that_is_being_stored_when_the_machine_stops_is_handed_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, begun, goes_on = os.fsync, threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        if "/state/runs/j" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            begun.set()
            goes_on.wait(60)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, WORKFLOWS, cloud="hold_s = 1")
        async with running_daemon(config) as daemon:
            hub.hand_out(job("j", "quick"))
            await in_time(begun.is_set)
            daemon.send(signal.SIGTERM)
            await daemon.until_logged("stopping")
            goes_on.set()
            await in_time(lambda: not daemon.alive)

    assert len(hub.calls("release", "j")) == 1
    assert not (daemon.state / "jobs/j.json").exists()


def _events(daemon: DaemonHere) -> set[str]:
    return {str(each.get("event")) for each in daemon.log()}


@define
class LateBeats(BugFence):
    """Holds the next beat for one job back until the test lets it go."""

    job_id: str = ""
    is_due: anyio.Event = field(factory=anyio.Event)
    go: anyio.Event = field(factory=anyio.Event)

    @override
    async def complete(
        self,
        loop: str,
        act: Callable[[], Awaitable[None]],
        *,
        item: str = "",
        **options: Any,
    ) -> None:
        if self.job_id and (loop, item) == ("heartbeat", self.job_id):
            self.is_due.set()
            await self.go.wait()
        await super().complete(loop, act, item=item, **options)


async def test_a_beat_that_was_due_before_a_release_is_not_sent_behind_it(
    tmp_path: Path,
) -> None:
    beats = LateBeats()
    async with (
        endpoint() as hub,
        one_runs_and_one_waits(tmp_path, hub, bugs=beats) as daemon,
    ):
        await hub.until(lambda it: bool(it.calls("heartbeat", "later")))
        before = len(hub.calls("heartbeat", "later"))
        beats.job_id = "later"
        await advance(60)
        await beats.is_due.wait()
        answer_releases(hub, STALLS)
        await call(daemon, "POST", "/v1/drain", {})
        await hub.until(lambda it: bool(it.calls("release", "later")))
        beats.go.set()
        others = len(hub.calls("heartbeat", "runs"))
        await advance(60)
        await hub.until(lambda it: len(it.calls("heartbeat", "runs")) > others)
        hub.script = None

    assert len(hub.calls("heartbeat", "later")) == before
