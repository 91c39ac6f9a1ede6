"""A daemon that is made deaf or mute in any way says so: readiness, status, service manager."""

import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from attrs import evolve

from dispatchd.errors import NotReachable
from support.cli import command
from support.clock import advance, threads_are_idle, within
from support.control import call, until_status
from support.daemon import DaemonLog, running_daemon, write_config
from support.daemon_process import running_daemon as daemon_process
from support.endpoint import Answer, Request, as_json, endpoint
from support.servers import tcp_server

QUICK = "hold_s = 1\npoll_interval_s = 1\ncall_timeout_s = 2"
PATIENCE_S = 2
"""Twice that hold."""
HOLD_S = 30
USUAL = f"hold_s = {HOLD_S}\npoll_interval_s = 1\ncall_timeout_s = 60"
LOOK_S = 5
"""Time after which the log is told at the latest how the daemon is (seconds)."""


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Give the address of something that takes connections and never answers."""

    async def never(_: SocketStream) -> None:
        await anyio.sleep_forever()

    async with tcp_server(never) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def manager(folder: Path) -> Iterator[socket.socket]:
    """Listen as a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(folder / "notify"))
        listening.setblocking(False)
        yield listening


async def heard(listening: socket.socket) -> dict[str, str]:
    """Return the next message of the daemon."""
    await anyio.wait_readable(listening)
    lines = listening.recv(65536).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


async def until_heard(
    listening: socket.socket, name: str, within_s: float = 30
) -> dict[str, str]:
    with within(within_s):
        while True:
            words = await heard(listening)
            if name in words:
                return words


async def health(daemon: DaemonLog) -> str:
    """Return `ready`, or why it isn't."""
    try:
        await call(daemon, "GET", "/v1/health")
    except NotReachable as error:
        return str(error)
    return "ready"


async def test_a_machine_is_ready_right_after_its_first_question(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 60"
        )
        async with running_daemon(config) as daemon:
            status = await until_status(daemon, lambda s: s["ready"], within_s=20)
            await hub.until(lambda e: len(e.calls("pull")) == 2)

    assert status["problems"] == []
    # An answer at once says whether all is well; from then on the question is held.
    assert [each.hold_s for each in hub.calls("pull")] == [0, 60]


async def test_an_endpoint_that_never_answers_is_a_flaw(tmp_path: Path) -> None:
    async with black_hole() as url:
        config = write_config(tmp_path, url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            status = await until_status(
                daemon, lambda s: "Unavailable" in s["endpoint"]["state"], skip_s=5
            )
            said = await health(daemon)
            await daemon.until_logged("not_ready")

    assert status["ready"] is False
    assert "no pull has succeeded yet" in status["problems"][0]
    assert "503" in said


async def test_a_revoked_token_is_a_flaw_and_what_follows_it_none(
    tmp_path: Path,
) -> None:
    revoked = True

    def script(_: Request) -> Answer | None:
        return as_json({"message": "who?"}, 401) if revoked else None

    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            await until_status(daemon, lambda s: s["ready"])
            hub.script = script
            status = await until_status(daemon, lambda s: not s["ready"], skip_s=5)
            await advance(LOOK_S)
            await daemon.until_logged("not_ready")
            revoked = False
            await until_status(daemon, lambda s: s["ready"], skip_s=5)
            await advance(LOOK_S)
            await daemon.until_logged("ready_again")

    assert "pulls have failed: Unauthorized" in status["problems"][0]


async def test_refused_polls_are_a_flaw_at_the_third_though_they_would_be_held(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 120"
        )
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: len(e.calls("pull")) == 2)
            began = anyio.current_time()
            hub.script = lambda _: as_json({"message": "no"}, 403)
            hub.cut_held_polls()
            status = await until_status(daemon, lambda s: not s["ready"], skip_s=1)

            assert anyio.current_time() - began < 60
            hub.script = lambda _: None
            await until_status(daemon, lambda s: s["ready"], skip_s=1)

    # On a busy machine the fourth may have failed before somebody looks.
    assert re.search(
        "the last [34] pulls have failed: Forbidden", status["problems"][0]
    ), status


async def test_a_machine_that_was_revoked_is_not_ready_at_once(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 120"
        )
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: len(e.calls("pull")) == 2)
            hub.script = lambda _: as_json({"message": "it was revoked"}, 410)
            hub.cut_held_polls()
            status = await until_status(daemon, lambda s: not s["ready"])

    assert "the endpoint has revoked this machine: Revoked" in status["problems"][0]


async def test_a_machine_that_starts_is_not_called_unready(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            await until_status(daemon, lambda s: s["ready"])
            await advance(LOOK_S)

            assert "not_ready" not in {each["event"] for each in daemon.log()}


async def test_reports_that_get_no_answer_are_a_flaw_though_pulls_do(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        hub.script = lambda request: (
            Answer(status=500) if request.call == "accept" else None
        )
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("report_failed")
            status = await until_status(daemon, lambda s: not s["ready"], skip_s=5)

    assert "no report has succeeded" in status["problems"][0]
    assert status["outbox"]["oldest_job"] == "job-1"
    assert status["outbox"]["oldest_age_s"] > 2 * HOLD_S


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_clock_that_is_set_changes_nothing_about_a_machine_that_pulls(
    tmp_path: Path, hours: int
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_finish_acknowledged")
            await threads_are_idle()
            daemon.time.wall_set_by_s = hours * 3600
            hub.hand_out({"id": "job-2", "dag_name": "it"})
            await hub.until_finished("job-2")
            await daemon.until_logged("clock_was_set")
            await advance(HOLD_S / 2)
            status = await call(daemon, "GET", "/v1/status")
            wall = daemon.time.wall()

    told = status["endpoint"]
    reported = datetime.fromisoformat(told["last_report_at"]).timestamp()
    assert status["ready"]
    assert HOLD_S / 2 <= told["last_pull_age_s"] < 2 * HOLD_S
    assert 0 <= wall - reported < 2 * HOLD_S


@pytest.mark.parametrize("how", ["pause", "drain"])
async def test_a_flaw_beside_a_pause_or_a_drain_is_still_the_exit_code(
    tmp_path: Path, how: str
) -> None:
    async with endpoint() as hub:
        hub.script = lambda request: (
            Answer(status=500) if request.call == "finish" else None
        )
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL)
        async with running_daemon(config) as daemon:
            await call(daemon, "POST", f"/v1/{how}")
            await until_status(daemon, lambda s: len(s["problems"]) == 1)
            wanted = await command("status", "--config", str(config))
            await call(daemon, "POST", "/v1/resume")
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("report_failed")
            await call(daemon, "POST", f"/v1/{how}")
            await until_status(daemon, lambda s: len(s["problems"]) == 2, skip_s=5)
            shown = await command("status", "--config", str(config))

    assert (wanted.returncode, shown.returncode) == (0, 1)
    assert "no report has succeeded" in shown.stdout


async def test_a_full_machine_that_asks_for_nothing_is_ready(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sleep", "60"]},
            cloud=USUAL,
            runs="queue_ahead = 0",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            status = await until_status(
                daemon,
                lambda s: s["endpoint"]["last_pull_age_s"] > 4 * HOLD_S,
                skip_s=HOLD_S,
            )
            await call(daemon, "POST", "/v1/jobs/job-1/cancel")
            await hub.until_finished("job-1")

    assert status["ready"] is True


async def test_the_service_manager_hears_how_it_goes(tmp_path: Path) -> None:
    with manager(tmp_path) as listening:
        async with endpoint() as hub:
            config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=QUICK)
            env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
            async with daemon_process(config, env=env) as daemon:
                ready = await until_heard(listening, "READY")
                # Whoever waits for READY may ask at once.
                assert await call(daemon, "GET", "/v1/status")
                # In whichever order.
                told = ready
                with within(30):
                    while "WATCHDOG" not in told or "last pull" not in told["STATUS"]:
                        told = {**told, **await heard(listening)}
                await call(daemon, "POST", "/v1/reload")
                reloading = await until_heard(listening, "RELOADING")
                await until_heard(listening, "READY")
                daemon.process.terminate()
                await until_heard(listening, "STOPPING")

    assert ready["STATUS"].startswith("pulling; 0 running, 0 waiting")
    assert "last pull" in told["STATUS"]
    assert int(reloading["MONOTONIC_USEC"]) > 0


async def test_a_run_is_told_nothing_of_the_service_manager(tmp_path: Path) -> None:
    with manager(tmp_path):
        async with endpoint() as hub:
            config = write_config(tmp_path, hub.url, {"it": ["/usr/bin/env"]})
            env = {
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "9000000",
            }
            async with running_daemon(config, env=env) as daemon:
                hub.hand_out({"id": "job-1", "dag_name": "it"})
                await hub.until_finished("job-1")
                output = (daemon.state / "runs/job-1/attempt-1/output.log").read_text()

    assert "NOTIFY_SOCKET" not in output
    assert "WATCHDOG" not in output


class HangingDisk:
    """A disk on which fsync(2) of files below some folders can hang."""

    def __init__(self, *places: str) -> None:
        self._places, self._fsync = places, os.fsync
        self._well = threading.Event()
        self._well.set()

    def fsync(self, fd: int) -> None:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        if any(each in path for each in self._places):
            self._well.wait()
        self._fsync(fd)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Hang for the length of a block; what has waited goes on after it."""
        self._well.clear()
        try:
            yield
        finally:
            self._well.set()


async def test_a_loop_that_is_stuck_is_named_and_lets_the_watchdog_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a report ends with, and what a delivery begins with.
    disk = HangingDisk("/state/history", "/state/runs/second")
    monkeypatch.setattr(os, "fsync", disk.fsync)
    watchdog_s = 3
    with manager(tmp_path) as listening:
        async with endpoint() as hub:
            config = write_config(
                tmp_path, hub.url, {"it": ["/bin/true"]}, cloud=USUAL, runs="slots = 2"
            )
            env = {
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": str(watchdog_s * 1_000_000),
            }
            async with running_daemon(config, env=env) as daemon:
                await until_heard(listening, "WATCHDOG")
                with disk.hanging():
                    hub.hand_out({"id": "first", "dag_name": "it"})
                    await hub.until_finished("first")
                    hub.hand_out({"id": "second", "dag_name": "it"})
                    status = await until_status(
                        daemon,
                        lambda s: sum("stuck" in each for each in s["problems"]) == 2,
                        skip_s=1,
                    )
                    # Whatever was on its way has been heard after this.
                    while listening in await _readable(listening):
                        await heard(listening)
                    for _ in range(2 * watchdog_s):
                        await advance(1)
                        await call(daemon, "GET", "/v1/status")
                        while listening in await _readable(listening):
                            assert "WATCHDOG" not in await heard(listening)
                await until_status(
                    daemon, lambda s: not any("stuck" in each for each in s["problems"])
                )
                await advance(1)
                await until_heard(listening, "WATCHDOG")

    assert "the loop is stuck: pull" in status["problems"]
    assert "the loop is stuck: report first" in status["problems"]


async def _readable(listening: socket.socket) -> list[socket.socket]:
    with anyio.move_on_after(0.05):
        await anyio.wait_readable(listening)
        return [listening]
    return []


async def test_a_daemon_with_an_abstract_address_of_its_manager_starts(
    tmp_path: Path,
) -> None:
    name = f"dispatchd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.setblocking(False)
        async with endpoint() as hub:
            config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
            async with running_daemon(config, env={"NOTIFY_SOCKET": f"@{name}"}):
                await until_heard(listening, "READY")


async def test_reports_that_wait_for_a_turn_are_not_stuck(tmp_path: Path) -> None:
    """An endpoint takes finishes and answers none: eight calls at a time, and the others have to wait."""
    jobs = 40

    unanswered = evolve(as_json({}), stalls=True)

    def script(request: Request) -> Answer | None:
        return unanswered if request.call == "finish" else None

    async with endpoint() as hub:
        hub.script = script
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/true"]},
            cloud="call_timeout_s = 30",
            runs="slots = 8\nqueue_ahead = 40",
        )
        async with running_daemon(config) as daemon:
            for number in range(jobs):
                hub.hand_out({"id": f"job-{number}", "dag_name": "it"})
            await until_status(daemon, lambda s: s["outbox"]["depth"] == jobs)
            problems: list[str] = []
            for _ in range(50):
                await threads_are_idle()
                await advance(4)
                problems += (await call(daemon, "GET", "/v1/status"))["problems"]
            hub.script = None

    assert any("no report has succeeded" in each for each in problems)
    assert not [each for each in problems if "stuck" in each]
