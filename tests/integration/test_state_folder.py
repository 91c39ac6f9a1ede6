"""What can happen to the state folder: two daemons, bad records, newer records, a full disk, a restart."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio import to_thread
from attrs import evolve

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.store.codec import SCHEMA_VERSION, encode
from dispatchd.agent.store.identity import IdentityStore
from dispatchd.agent.store.intake import IntakeStore
from dispatchd.agent.store.runs import Runs
from dispatchd.errors import PathTaken, RecordUnreadable
from dispatchd.protocol.job import Job
from support.cli import dispatchd, dispatchd_process
from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, DaemonLog, running_daemon, write_config
from support.daemon_process import running
from support.endpoint import endpoint
from support.records import NOW
from support.until import until

TRUE = ["/bin/true"]
WAITS = [
    "/bin/sh",
    "-c",
    "echo begun; while ! [ -e go ]; do sleep 0.05; done; exit 5",
]
JOB = {"id": "j", "dag_name": "it"}
RETRY_S = 5.0
"""Longest wait before a write is tried again (seconds)."""
DISK_LOOK_S = 2.0
"""How often a daemon without room looks whether there is any (seconds)."""


def let_go(daemon: DaemonLog) -> None:
    (daemon.state / "runs" / "j" / "workspace" / "go").touch()


async def test_a_second_daemon_on_the_same_folder_refuses_with_a_clear_line(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config) as daemon:
            second = await to_thread.run_sync(
                dispatchd_process, "run", "--config", str(config)
            )
            hub.hand_out(JOB)
            await hub.until_finished("j")

    assert second.returncode == os.EX_UNAVAILABLE
    [line] = second.stderr.splitlines()
    assert (
        f"cannot use {daemon.state}: pid {os.getpid()} is already running on it" in line
    )


async def test_a_lock_that_somebody_removes_lets_no_second_daemon_in(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config) as daemon:
            (daemon.state / "lock").unlink()
            second = await to_thread.run_sync(
                dispatchd_process, "run", "--config", str(config)
            )

    assert second.returncode == os.EX_UNAVAILABLE
    [line] = second.stderr.splitlines()
    assert f"cannot use {daemon.state}: another process is already running" in line


async def test_an_earlier_release_keeps_this_one_out(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", {"it": TRUE})
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = await to_thread.run_sync(
            dispatchd_process, "run", "--config", str(config)
        )

    assert second.returncode == os.EX_UNAVAILABLE


async def test_two_daemons_do_not_answer_at_one_socket(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    async with endpoint() as hub:
        one, two = (
            write_config(tmp_path / name, hub.url, {"it": TRUE})
            for name in ("one", "two")
        )
        for config in (one, two):
            config.write_text(
                f'{config.read_text()}\n[control]\nfolder = "{control}"\n'
            )
        async with running_daemon(one) as daemon:
            second, other, own = [
                await to_thread.run_sync(
                    partial(dispatchd_process, *words, "--config", str(config))
                )
                for words, config in (
                    (["run"], two),
                    (["pause"], two),
                    (["status", "--json"], one),
                )
            ]

    assert second.returncode == os.EX_CONFIG
    [line] = second.stderr.splitlines()
    assert f"cannot answer in {control}: pid {os.getpid()} has its control" in line
    assert other.returncode == os.EX_UNAVAILABLE
    assert "the daemon of another state folder answers here" in other.stderr
    assert json.loads(own.stdout)["state_folder"] == str(daemon.state)
    assert json.loads(own.stdout)["intake"]["mode"] == "pulling"


async def test_an_unreadable_record_is_put_aside_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    damages = (b"", b"{", b"\xff\xfe", b"[]", b'{"schema_version": 1}', b"\0" * 300)
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        jobs = config.parent / "state" / "jobs"
        jobs.mkdir(parents=True)
        bad = {jobs / f"bad-{number}.json": each for number, each in enumerate(damages)}
        for file, damage in bad.items():
            file.write_bytes(damage)
        track(config.parent / "state", "good")
        async with running_daemon(config) as daemon:
            await hub.until_finished("good")

    lines = [line for line in daemon.log() if line["event"] == "record_quarantined"]
    aside = {Path(line["path"]): Path(line["moved_to"]) for line in lines}
    assert {file: aside[file].read_bytes() for file in aside} == bad
    assert not any(file.exists() for file in bad)


async def test_a_removed_history_keeps_no_job_from_its_end(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")
            await until((daemon.state / "history/j.json").exists)
            shutil.rmtree(daemon.state / "history")
            listed = await to_thread.run_sync(
                lambda: dispatchd("jobs", "--config", str(config))
            )
            hub.hand_out({"id": "k", "dag_name": "it"})
            await hub.until_finished("k")
            await daemon.until_logged("folder_made_again")
            await until((daemon.state / "history/k.json").exists)

    assert (listed.returncode, listed.stderr) == (0, "")


async def test_what_is_no_file_is_put_aside_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    """A backup, a person or a run without walls may have put anything there."""
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        jobs = config.parent / "state" / "jobs"
        jobs.mkdir(parents=True)
        os.mkfifo(jobs / "pipe.json")
        (jobs / "endless.json").symlink_to("/dev/zero")
        (jobs / "nowhere.json").symlink_to("nowhere.json")
        (jobs / "folder.json").mkdir()
        track(config.parent / "state", "good")
        history = config.parent / "state" / "history"
        history.mkdir(exist_ok=True)
        os.mkfifo(history / "past.json")
        (history / "itself.json").symlink_to("itself.json")
        async with running_daemon(config) as daemon:
            await hub.until_finished("good")
            hub.hand_out({"id": "past", "dag_name": "it"})
            await hub.until_finished("past")
            past = await call(daemon, "GET", "/v1/jobs?past=10")

    aside = sorted(
        each.name for each in (config.parent / "state" / "quarantine").iterdir()
    )
    assert aside == ["endless.json", "folder.json", "nowhere.json", "pipe.json"]
    assert {each["job"]["id"] for each in past["jobs"]} == {"good", "past"}
    assert not daemon.bugs.met


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
async def test_a_record_that_can_neither_be_read_nor_moved_is_named_and_skipped(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        file = config.parent / "state" / "jobs" / "bad.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        track(config.parent / "state", "good")
        if subprocess.run(["chattr", "+i", file], check=False).returncode:
            pytest.skip("needs root, and a file system with immutable files")
        try:
            async with running_daemon(config) as daemon:
                await hub.until_finished("good")
        finally:
            subprocess.run(["chattr", "-i", file], check=True)

    [line] = [line for line in daemon.log() if line["event"] == "record_quarantined"]
    assert line["path"] == line["moved_to"] == str(file)
    assert "can't be moved: Operation not permitted" in line["reason"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema_version": ' + "9" * 400])
def test_a_file_of_the_folder_that_no_parser_takes_is_unreadable(
    tmp_path: Path, text: str
) -> None:
    for name in ("intake.json", "activation.json"):
        (tmp_path / name).write_text(text)

    with pytest.raises(RecordUnreadable):
        IntakeStore(tmp_path).load()
    with pytest.raises(RecordUnreadable):
        IdentityStore(tmp_path).activation()


def test_a_record_of_a_newer_release_stops_the_start_and_stays(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9", {"it": TRUE})
    jobs = config.parent / "state" / "jobs"
    jobs.mkdir(parents=True)
    newer = SCHEMA_VERSION + 1
    (jobs / "new.json").write_text(f'{{"schema_version": {newer}}}')

    refused = dispatchd("run", "--config", str(config))

    assert refused.returncode == os.EX_CONFIG
    [line] = refused.stderr.splitlines()
    assert (
        f"schema_version {newer} and this release reads up to {SCHEMA_VERSION}" in line
    )
    assert (jobs / "new.json").exists()


async def test_a_run_outlives_a_killed_daemon_and_the_next_one_reports_its_exit_code(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS})
        with running(config) as first:
            hub.hand_out(JOB)
            await first.until_logged("job_attempt_started")
        async with running_daemon(config) as second:
            let_go(second)
            finished = (await hub.until_finished("j"))[0]
            await second.until_logged("job_finish_acknowledged")

    assert "exit code 5" in finished["result_summary"]
    assert (second.state / "runs/j/attempt-1/output.log").read_text() == "begun\n"


async def test_sigterm_leaves_runs_alive_and_hands_waiting_jobs_back(
    tmp_path: Path,
) -> None:
    waiting_job = {
        "id": "w",
        "dag_name": "it",
        "claim_token": "t",
        "lease_seconds": 60,
        "extensions": ["release"],
    }
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS})
        with running(config) as first:
            hub.hand_out(JOB)
            await first.until_logged("job_attempt_started")
            hub.hand_out(waiting_job)
            await first.until_logged("job_accept_confirmed", job_id="w")
            code = await to_thread.run_sync(first.stop)
            [stopped] = events(first, "daemon_stopped")
        assert [each.job_id for each in hub.calls("release")] == ["w"]
        async with running_daemon(config) as second:
            let_go(second)
            await hub.until_finished("j")

    assert (code, stopped["left_running"]) == (0, 1)
    assert "exit code 5" in hub.finished["j"]["result_summary"]
    assert "w" not in hub.finished


def events(daemon: DaemonLog, event: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line.get("event") == event]


async def test_a_second_sigint_cancels_the_runs(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sleep", "300"]})
        with running(config) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("job_attempt_started")
            daemon.process.send_signal(signal.SIGINT)
            await daemon.until_logged("stop_requested")
            daemon.process.send_signal(signal.SIGINT)
            code = await to_thread.run_sync(daemon.process.wait)

    assert code == 0
    assert hub.finished["j"]["result_status"] == "aborted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 6 MiB, where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(
            f"no right to mount a small file system: {mounted.stderr.decode().strip()}"
        )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_disk_that_fills_up_while_tracking_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": TRUE},
            store=f'folder = "{small_disk}/state"\nmin_free_mib = 0',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("job_finish_acknowledged")
            ballast = fill(small_disk)
            hub.hand_out({**JOB, "id": "full", "payload": "x" * 100_000})
            line = await daemon.until_logged("store_write_refused")
            assert "No space left on device" in line["error"]
            pulls = len(hub.calls("pull"))
            hub.hand_out({**JOB, "id": "later"})
            for _ in range(2):
                await tried_again(daemon)
            assert len(hub.calls("pull")) == pulls
            ballast.unlink()
            await advance(RETRY_S)
            finished = await hub.until_finished("full", "later")

    assert [each["result_status"] for each in finished] == ["succeeded"] * 2
    assert hub.accepted.keys() == {"j", "full", "later"}


async def test_nothing_is_pulled_while_there_is_too_little_room(
    tmp_path: Path, small_disk: Path
) -> None:
    async with endpoint() as hub:
        settings = f'folder = "{small_disk}/state"\nmin_free_mib = 2'
        config = write_config(tmp_path, hub.url, {"it": TRUE}, store=settings)
        ballast = fill(small_disk)
        async with running_daemon(config) as daemon:
            line = await daemon.until_logged("pull_paused")
            assert hub.calls("pull") == []
            ballast.unlink()
            hub.hand_out(JOB)
            await advance(DISK_LOOK_S)
            await hub.until_finished("j")

    assert re.search(r"less than 2 MiB free", line["reason"])


async def tried_again(daemon: DaemonHere) -> None:
    """Let the wait before the next write pass, and return when that was refused too."""
    before = len(events(daemon, "store_write_refused"))
    await advance(RETRY_S)
    await until(lambda: len(events(daemon, "store_write_refused")) > before)


def fill(disk: Path) -> Path:
    """Take all the room on a disk with one file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


async def test_a_thousand_waiting_jobs_are_taken_up_at_the_start(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": TRUE}, runs="slots = 8\nqueue_ahead = 5000"
        )
        state = config.parent / "state"
        first = track(state, "w0")
        for number in range(1, 1000):
            track_too(state, first, f"w{number}")
        async with running_daemon(config) as daemon:
            ready = await daemon.until_logged("daemon_ready")
            await hub.until(lambda e: bool(e.calls("pull")))

    assert ready["tracked_jobs"] == 1000


def track(state: Path, job_id: str) -> TrackedJob:
    """Write what a daemon leaves that died right after it had pulled a job."""
    record = TrackedJob.received(Job(id=job_id, workflow="it"), now=NOW)
    (state / "jobs").mkdir(parents=True, exist_ok=True)
    (state / "jobs" / f"{job_id}.json").write_bytes(encode(record))
    Runs.open(state).create(job_id, payload="null", headers="null")
    return record


def track_too(state: Path, other: TrackedJob, job_id: str) -> None:
    """Write the same for a job like another, without waiting for the disk."""
    record = evolve(other, job=evolve(other.job, id=job_id), run_id=job_id)
    (state / "jobs" / f"{job_id}.json").write_bytes(encode(record))
    shutil.copytree(state / "runs" / other.job.id, state / "runs" / job_id)


@pytest.mark.parametrize(
    ("name", "kind", "do"),
    [
        ("lock", "a folder", "give it to this user, or move it away"),
        ("lock", "a link to 'lock'", "give it to this user, or move it away"),
        ("jobs", "a regular file", "move it away, or name another folder"),
        ("runs", "a link to 'nowhere'", "move it away, or name another folder"),
        ("", "a regular file", "move it away, or name another folder"),
    ],
)
async def test_what_is_in_the_place_of_its_own_files_is_named_and_left_alone(
    tmp_path: Path, name: str, kind: str, do: str
) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9", {})
    path = tmp_path / "state" / name
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "a folder":
            path.mkdir()
        case "a regular file":
            path.write_text("mine")
        case _:
            path.symlink_to(kind.split("'")[1])

    with pytest.raises(ExceptionGroup) as caught:
        async with running_daemon(config):
            pass

    words = f"cannot make {path}: there is {kind} of user {os.geteuid()}; {do}"
    assert caught.group_contains(PathTaken, match=re.escape(words))
    assert path.lstat()


@pytest.mark.parametrize("name", ["clock.json", "intake.json"])
async def test_a_pipe_in_the_place_of_a_small_file_of_its_own_keeps_nothing_waiting(
    tmp_path: Path, name: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        (tmp_path / "state").mkdir()
        os.mkfifo(tmp_path / "state" / name)
        async with running_daemon(config):
            hub.hand_out(JOB)
            await hub.until_finished("j")


async def test_a_pipe_in_the_place_of_the_server_id_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "server_id")

    found, flaw = IdentityStore(tmp_path).server_id(lambda: UUID(int=1))

    assert found == str(UUID(int=1))
    assert "held no server id" in flaw
