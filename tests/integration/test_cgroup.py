"""Where a part of the control group tree has been handed to the daemon, nothing gets out of a run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from dispatchd.engines.local.cgroup import Cgroups
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

# Two forks, a session of its own, and an environment with nothing in it: no sweep of processes finds it.
ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", "echo $$ >{pid_file}; sleep 300"], {{}})
    os._exit(0)
os.wait()
while not os.path.exists("{pid_file}"):
    time.sleep(0.01)
{then}
"""


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A group as systemd hands it over; this process isn't in it."""
    mount = next(
        (
            Path(line.split()[1])
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[2] == "cgroup2"
        ),
        None,
    )
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("this machine has no cgroup v2 tree that these tests may write")
    group = mount / f"dispatchd-test-{os.getpid()}"
    try:
        group.mkdir()
        os.setxattr(group, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"a group like systemd's can't be made here: {error}")
    yield group
    for each in sorted(group.rglob("*/"), reverse=True):
        each.rmdir()
    group.rmdir()


def inside(group: Path) -> tuple[str, ...]:
    """Return a wrapper that puts a command into a group."""
    return ("/bin/sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")


@pytest.mark.parametrize(
    ("then", "cancelled", "status"),
    [("", False, "succeeded"), ("time.sleep(300)", True, "aborted")],
)
async def test_not_even_a_process_without_environment_escapes(
    tmp_path: Path,
    delegated: Path,
    then: str,
    cancelled: bool,  # noqa: FBT001  # a column of the table
    status: str,
) -> None:
    pid_file, script = tmp_path / "pid", tmp_path / "escape.py"
    script.write_text(ESCAPE.format(pid_file=pid_file, then=then))
    async with endpoint() as hub:
        command = [sys.executable, "-S", str(script)]
        config = write_config(tmp_path / "machine", hub.url, {"it": command})
        async with running_daemon(config, wrapper=inside(delegated)) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            if cancelled:
                with anyio.fail_after(30):
                    while not pid_file.exists():
                        # Made by a process of the run: nothing announces it.
                        await anyio.sleep(0.02)
                hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
            finished = (await hub.until_finished("j"))[0]
            pid = int(pid_file.read_text())
            left = Path(f"/proc/{pid}").exists() and is_alive(pid)
            groups = [each.name for each in delegated.iterdir() if each.is_dir()]

    assert finished["result_status"] == status
    assert not left
    assert groups == []
    assert not any("cgroup_refused" in str(line) for line in daemon.log())


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_only_what_was_handed_over_is_used(tmp_path: Path, delegated: Path) -> None:
    source = "from dispatchd.engines.local.cgroup import Cgroups; print(Cgroups.find())"
    command = [sys.executable, "-c", source]

    found = subprocess.check_output([*inside(delegated), *command], text=True)
    os.removexattr(delegated, "user.delegate")
    refused = subprocess.check_output([*inside(delegated), *command], text=True)

    assert str(delegated) in found
    assert refused == "None\n"
    assert Cgroups.find(tmp_path) is None
