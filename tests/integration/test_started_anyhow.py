"""A daemon as others start it: streams closed, signals blocked, no home, folders and names of other people's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import support
from dispatchd.agent.engines.local.cgroup import Cgroups
from support import daemon_process
from support.cli import dispatchd_process
from support.daemon import write_config
from support.endpoint import endpoint
from support.preload import build
from support.torture import few

# Each command is a process of its own.
pytestmark = pytest.mark.host

IT = {"it": ["/bin/sh", "-c", "echo said; echo loudly >&2"]}


@pytest.mark.parametrize("closed", few(["<&- >&- 2>&-", "<&-", "2>&-", "<&- 2>&-"], 1))
async def test_a_run_has_streams_where_the_daemon_was_given_none(
    tmp_path: Path, closed: str
) -> None:
    wrapper = ("/bin/sh", "-c", f'exec "$@" {closed}', "sh")
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, IT)
        with daemon_process.running(config, wrapper=wrapper) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j")
            output = daemon.state / "runs" / "j" / "attempt-1" / "output.log"
            said = output.read_text()

    assert finish["result_status"] == "succeeded"
    assert said == "said\nloudly\n"


async def test_a_stop_is_heard_where_every_signal_was_blocked(tmp_path: Path) -> None:
    block = "import signal, os, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); os.execvp(sys.argv[1], sys.argv[1:])"
    wrapper = (shutil.which("python3") or "python3", "-c", block)
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, IT)
        with daemon_process.running(config, wrapper=wrapper) as daemon:
            await daemon.until_logged("daemon_ready")
            code = daemon.stop()

    assert code == 0


async def test_a_daemon_whose_log_nobody_reads_goes_on(tmp_path: Path) -> None:
    """Its stdout is a pipe that was full before it began."""
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(write_end, False)
        while True:
            os.write(write_end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    wrapper = ("/bin/sh", "-c", f'exec "$@" >/proc/{os.getpid()}/fd/{write_end}', "sh")
    try:
        async with endpoint() as hub:
            config = write_config(tmp_path, hub.url, IT)
            with daemon_process.running(config, wrapper=wrapper) as daemon:
                hub.hand_out({"id": "j", "dag_name": "it"})
                (finish,) = await hub.until_finished("j")
                code = daemon.stop()
    finally:
        os.close(read_end)
        os.close(write_end)

    assert (finish["result_status"], code) == ("succeeded", 0)


def test_a_mount_may_have_any_name(tmp_path: Path) -> None:
    """The kernel writes out four characters of it; what else is in it comes as it is (proc_pid_mountinfo(5))."""
    line = b"30 1 0:20 / %s rw - %s none rw\n"
    names = (b"/media/m\xfcller", b"/media/\x0b\x0c\x1c\xc2\x85", "/media/ü🚀".encode())
    group = tmp_path / "tree"
    (group / "own").mkdir(parents=True)
    mounts = [line % (name, b"vfat") for name in names]
    cgroup2 = line % (os.fsencode(group), b"cgroup2")
    (tmp_path / "mountinfo").write_bytes(b"".join([*mounts, cgroup2]))
    (tmp_path / "cgroup").write_bytes(b"0::/own/\xff\n")

    # It is found, and hasn't been handed over.
    assert Cgroups.find(tmp_path) is None


def test_a_mask_that_takes_the_owner_s_permissions_takes_none(tmp_path: Path) -> None:
    words = ("service", "install", "--hub", "--user", "--program", "/opt/dispatchd")
    script = 'umask 0777; exec "$@" --root "$0"'
    program = (sys.executable, "-m", "dispatchd")
    subprocess.run(
        ["/bin/sh", "-c", script, str(tmp_path), *program, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )

    made = [*tmp_path.rglob("*")]
    assert made
    for path in made:
        assert path.stat().st_mode & 0o600 == 0o600
        assert path.is_file() or path.stat().st_mode & 0o777 == 0o700


def test_a_time_that_no_module_can_read_is_one_line(tmp_path: Path) -> None:
    library = build(Path(support.__file__).parent / "clock_ahead.c", tmp_path)
    # Of the year 2262 on; Linux 5.3 or newer takes no such time (settimeofday(2)), a virtual machine may have it.
    env = {"LD_PRELOAD": str(library), "AHEAD_S": str(300 * 366 * 86_400)}
    done = dispatchd_process("status", env=env)

    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr == (
        "dispatchd: this machine's clock is past the year 2262: set it\n"
    )
