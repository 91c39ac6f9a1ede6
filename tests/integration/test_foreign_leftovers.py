"""A daemon that isn't root, and runs that leave processes of root behind, as those may that use sudo."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support import daemon_process
from support.control import call
from support.daemon import write_config
from support.endpoint import endpoint
from support.other_user import NOBODY, USER, as_nobody
from support.until import until

AS_ROOT = """
#include <unistd.h>
int main(int argc, char **argv)
{
    if (setgid(0) || setuid(0)) return 126;
    execv(argv[1], argv + 1);
    return 127;
}
"""
"""What sudo does, without asking."""

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else"),
    pytest.mark.skipif(
        shutil.which("setpriv") is None or shutil.which("cc") is None,
        reason="needs setpriv and a C compiler",
    ),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="dispatchd-foreign-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def as_root(place: Path) -> Path:
    """Return a program that runs another one as root for whoever calls it."""
    source, program = place / "as-root.c", place / "as-root"
    source.write_text(AS_ROOT)
    subprocess.run(["cc", "-o", program, source], check=True)
    program.chmod(0o4755)
    seen = subprocess.run(
        [*NOBODY, program, "/usr/bin/id", "-u"], capture_output=True, check=False
    )
    if seen.stdout != b"0\n":
        pytest.skip("set-user-ID programs don't count here")
    return program


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A control group as systemd hands it over to another user."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    of_version_2 = (line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    mount = next(of_version_2, None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("this machine has no cgroup v2 tree that these tests may write")
    group = Path(mount) / f"dispatchd-foreign-{os.getpid()}"
    try:
        group.mkdir()
        os.setxattr(group, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"a group like systemd's can't be made here: {error}")
    for each in (group, *group.iterdir()):
        if each.name in {group.name, "cgroup.procs", "cgroup.subtree_control"}:
            os.chown(each, USER, USER)
    yield group
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    for each in sorted(group.rglob("*/"), reverse=True):
        each.rmdir()
    group.rmdir()


LEAVES = "{as_root} /bin/sleep 301 & echo $! >pid; sleep 0.3"
"""A command that succeeds, and leaves a process of root behind."""

HANGS = "{as_root} /bin/sleep 301 & echo $! >pid; wait"
"""One that waits for a process of root."""


@pytest.mark.parametrize(
    ("command", "limits", "end"),
    [
        (LEAVES, "", ("succeeded", None)),
        (HANGS, "max_duration_s = 2\nkill_grace_s = 1", ("failed", "max-duration")),
    ],
    ids=["left behind", "time limit"],
)
async def test_the_group_ends_what_refuses_the_daemons_signals(
    place: Path,
    as_root: Path,
    delegated: Path,
    command: str,
    limits: str,
    end: tuple[str, str | None],
) -> None:
    shell = ["/bin/sh", "-c", command.format(as_root=as_root)]
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, {"it": shell}, limits=limits)
        how = as_nobody(place / "m")
        enter = f'echo $$ >{delegated}/cgroup.procs; exec "$@"'
        how["wrapper"] = ("/bin/sh", "-c", enter, "sh", *how["wrapper"])
        async with daemon_process.running_daemon(config, **how) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=60)
            pid = int((daemon.state / "runs" / "j" / "workspace" / "pid").read_text())
            left = Path(f"/proc/{pid}").exists()
            doing = await call(daemon, "GET", "/v1/status")

    assert (finish["result_status"], finish.get("result_cause")) == end
    assert not left
    assert not doing["warnings"] or "can't be ended" not in str(doing["warnings"])
    assert not [line for line in daemon.log() if line.get("event") == "bug_contained"]


@pytest.mark.parametrize(
    ("command", "limits"),
    [(LEAVES, ""), (HANGS, "max_duration_s = 2\nkill_grace_s = 1")],
    ids=["left behind", "time limit"],
)
async def test_without_a_group_the_job_ends_and_says_what_was_left(
    place: Path, as_root: Path, command: str, limits: str
) -> None:
    shell = ["/bin/sh", "-c", command.format(as_root=as_root)]
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, {"it": shell}, limits=limits)
        how = as_nobody(place / "m")
        async with daemon_process.running_daemon(config, **how) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=90)
            pid = int((daemon.state / "runs" / "j" / "workspace" / "pid").read_text())
            # Its slot is free.
            hub.hand_out({"id": "k", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="k")
            warned = str((await call(daemon, "GET", "/v1/status"))["warnings"])
            subprocess.run(["kill", "-9", str(pid)], check=True)
            await until(lambda: not Path(f"/proc/{pid}").exists())
            second = daemon.state / "runs" / "k" / "workspace" / "pid"
            await until(second.exists)
            subprocess.run(["kill", "-9", second.read_text().strip()], check=True)

    assert finish["result_status"] == "failed"
    assert finish["result_cause"] == "unkillable"
    assert f"(pid {pid}, user root)" in finish["result_summary"]
    assert f"pid {pid}" in warned
    assert not [line for line in daemon.log() if line.get("event") == "bug_contained"]
