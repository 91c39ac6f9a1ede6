"""Of an output that is too large the middle goes, while the run goes on."""

import os
import subprocess
from pathlib import Path

import pytest

from dispatchd.linux.file_holes import allocated, cut_middle, hole_bytes
from support.cli import command
from support.clock import advance
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.until import in_time, until

MIB = 1024 * 1024
WRITES = """
echo the beginning
head -c 9000000 /dev/zero | tr '\\0' 'x'
touch full
while [ ! -e go ]; do sleep 0.05; done
echo the end
"""


@pytest.mark.parametrize("is_seen", [True, False])
async def test_head_and_tail_stay_and_the_run_goes_on(
    tmp_path: Path,
    is_seen: bool,  # noqa: FBT001  # a parameter
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", WRITES]},
            limits="output_max_mib = 2",
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            workspace = daemon.state / "runs/j/workspace"
            output = daemon.state / "runs/j/attempt-1/output.log"
            await until((workspace / "full").exists)
            size = output.stat().st_size
            if is_seen:
                await advance(2)
                await until(lambda: allocated(output) <= 2 * MIB)
            (workspace / "go").touch()
            (finish,) = await hub.until_finished("j")
            shown = await command("logs", "j", "--config", str(config))

    assert finish["result_status"] == "succeeded"
    assert "MiB in the middle were left out" in finish["result_summary"]
    assert finish["result_output"].endswith("x\nthe end\n") or finish[
        "result_output"
    ].endswith("xthe end\n")
    assert output.stat().st_size > size
    assert allocated(output) <= 2 * MIB
    assert shown.stdout.startswith("the beginning\nxxx")
    assert "bytes of output are left out here]" in shown.stdout
    assert shown.stdout.endswith("xthe end\n")
    assert "\0" not in shown.stdout
    assert len(shown.stdout) < 2 * MIB


def test_nothing_but_an_ordinary_file_is_cut(tmp_path: Path) -> None:
    file, other = tmp_path / "output.log", tmp_path / "other"
    other.write_bytes(bytes(range(1, 256)) * 40_000)
    os.link(other, file)

    assert not cut_middle(file, MIB)
    file.unlink()
    file.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        cut_middle(file, MIB)
    file.unlink()
    os.mkfifo(file)
    assert not cut_middle(file, MIB)
    assert hole_bytes(other) == 0
    assert cut_middle(other, MIB)
    assert hole_bytes(other) > 8 * MIB


def test_a_file_is_cut_again_and_again(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    with file.open("ab") as out:
        for _ in range(5):
            out.write(b"y" * 3 * MIB)
            out.flush()
            assert cut_middle(file, MIB)
            assert allocated(file) <= MIB

    assert file.stat().st_size == 15 * MIB
    assert file.read_bytes().count(b"are left out here") == 1


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system")
async def test_where_no_room_can_be_given_back_the_run_is_ended(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "ramfs", "small", str(disk)], check=False)
    if done.returncode != 0:
        pytest.skip("no ramfs can be mounted")
    try:
        (tmp_path / "machine").mkdir()
        (tmp_path / "machine" / "state").symlink_to(disk / "state")
        (disk / "state").mkdir(mode=0o700)
        async with endpoint() as hub:
            config = write_config(
                tmp_path / "machine",
                hub.url,
                {"it": ["/bin/sh", "-c", WRITES]},
                limits="output_max_mib = 2",
            )
            async with running_daemon(config):
                hub.hand_out({"id": "j", "dag_name": "it"})
                # The first look may already see too much, while it still writes.
                await in_time(lambda: "j" in hub.finished)
                finish = hub.finished["j"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

    assert (finish["result_status"], finish["result_cause"]) == ("failed", "signal")
    assert "Wrote more output than it may" in finish["result_summary"]
