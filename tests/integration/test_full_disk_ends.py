"""A run that has filled the disk ends all the same: by its limits, by a cancel, by a person, or by itself."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.store.jobs import JobStore
from dispatchd.errors import StoreUnavailable
from dispatchd.protocol.job import Job
from support.clock import advance
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.records import NOW
from support.until import until

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a small disk"),
]

FLOOD = "while :; do head -c 1000000 /dev/zero 2>/dev/null; sleep 0.05; done"
FILL = "head -c 99000000 /dev/zero >big 2>/dev/null; "


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "small", str(folder)]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("no tmpfs can be mounted")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(file: Path) -> None:
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={file}", "bs=4096", "status=none"], check=False
    )
    assert done.returncode == 1


def room(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.parametrize("how", ["limit", "cancel", "silence", "cancel job", "itself"])
async def test_a_run_on_a_full_disk_ends(
    tmp_path: Path, small_disk: Path, how: str
) -> None:
    # The log is elsewhere.
    machine = tmp_path / "machine"
    machine.mkdir()
    (small_disk / "state").mkdir(mode=0o700)
    (machine / "state").symlink_to(small_disk / "state")
    script = {
        "silence": FILL + "sleep 600",
        "itself": FILL + "while [ ! -e go ]; do sleep 0.1; done; exit 5",
    }.get(how, FLOOD)
    async with endpoint() as hub:
        config = write_config(
            machine,
            hub.url,
            {"it": ["/bin/sh", "-c", script]},
            limits=f"max_duration_s = 3000\ninactivity_s = {600 if how == 'silence' else 0}\nkill_grace_s = 5",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            await until(lambda: room(small_disk) == 0)
            match how:
                case "limit":
                    await advance(3001)
                case "silence":
                    await advance(601)
                case "cancel":
                    await call(daemon, "POST", "/v1/jobs/j/cancel", {})
                case "cancel job":
                    hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
                case _:
                    workspace = daemon.state / "runs/j/workspace"
                    (workspace / "go").symlink_to("/")
            (finish,) = await hub.until_finished("j")
            await until((daemon.state / "history" / "j.json").exists)

    assert finish["result_cause"] == {
        "limit": "max-duration",
        "silence": "inactivity-timeout",
        "itself": "exit-code",
    }.get(how, "cancelled")
    if how == "itself":
        assert "exit code 5" in finish["result_summary"]


async def test_a_job_that_waits_for_the_room_to_start_can_be_cancelled(
    tmp_path: Path, small_disk: Path
) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    (small_disk / "state").mkdir(mode=0o700)
    (machine / "state").symlink_to(small_disk / "state")
    async with endpoint() as hub:
        config = write_config(
            machine,
            hub.url,
            {"it": ["/bin/sleep", "300"]},
            runs="slots = 1\nqueue_ahead = 1",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            hub.hand_out({"id": "k", "dag_name": "it"})
            await daemon.until_logged("job_accept_confirmed", job_id="k")
            # Not even the folder of the attempt can be made.
            disk = os.statvfs(small_disk)
            option = f"remount,nr_inodes={disk.f_files - disk.f_ffree}"
            subprocess.run(["mount", "-o", option, small_disk], check=True)
            # The end of the first run would make some room.
            config.write_text(config.read_text().replace("slots = 1", "slots = 2"))
            await call(daemon, "POST", "/v1/reload")
            await daemon.until_logged("store_write_refused")
            await call(daemon, "POST", "/v1/jobs/k/cancel", {})

            (finish,) = await hub.until_finished("k")
            # Its run would outlive the daemon.
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            await hub.until_finished("j")

    assert finish["result_cause"] == "cancelled"


def test_only_what_ends_a_run_may_take_the_room_that_is_kept_back(
    small_disk: Path,
) -> None:
    store, _ = JobStore.open(small_disk / "state")
    record = TrackedJob.received(Job(id="j"), now=NOW)
    store.put(record)
    fill(small_disk / "big")
    accepted = record.advance(Event.ACCEPT_CONFIRMED, NOW)
    with pytest.raises(StoreUnavailable, match="space"):
        store.put(accepted)
    store.put(record.advance(Event.CANCEL_REQUESTED, NOW))
    store.close()
    (small_disk / "big").unlink()
    again, quarantined = JobStore.open(small_disk / "state")
    again.put(accepted)
    kept = list((small_disk / "state" / "reserve").iterdir())
    again.close()

    assert (quarantined, len(kept)) == ([], 16)
