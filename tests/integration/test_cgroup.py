"""Where a part of the control group tree has been handed to the daemon, nothing gets out of a run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio import to_thread

from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence, judge
from dispatchd.agent.engines.local.cgroup import Cgroups, Group
from dispatchd.protocol.outcome import Exit, Resources, Usage
from support import daemon_process
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.torture import few
from support.until import until

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


@pytest.mark.host
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
        async with daemon_process.running_daemon(
            config, wrapper=inside(delegated)
        ) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            if cancelled:
                await until(pid_file.exists)
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


NAMED_AS_A_RUNS = "to a group that is named as a run's"

ESCAPES = {
    "to the daemon": """
R=$MOUNT$(dirname "$G")
env -i setsid sh -c "echo \\$\\$ >$R/cgroup.procs; {lives}" >/dev/null 2>&1 &
""",
    "to a group of its own": """
R=$MOUNT$(dirname "$G"); mkdir "$R/mine"
env -i setsid sh -c "echo \\$\\$ >$R/mine/cgroup.procs; {lives}" >/dev/null 2>&1 &
""",
    "to a group below one of its own": """
R=$MOUNT$(dirname "$G"); mkdir -p "$R/mine/below/more"
env -i setsid sh -c "echo \\$\\$ >$R/mine/below/more/cgroup.procs; {lives}" >/dev/null 2>&1 &
""",
    "to a group below its run's": """
mkdir "$MOUNT$G/below"
env -i setsid sh -c "echo \\$\\$ >$MOUNT$G/below/cgroup.procs; {lives}" >/dev/null 2>&1 &
""",
    NAMED_AS_A_RUNS: """
R=$MOUNT$(dirname "$G"); mkdir "$R/run-0123456789abcdef01234567"
env -i setsid sh -c "echo \\$\\$ >$R/run-0123456789abcdef01234567/cgroup.procs; {lives}" >/dev/null 2>&1 &
""",
    "by a forged note": """
A=$DISPATCHD_ATTEMPT_FOLDER; N=$(basename "$(cat "$A/cgroup")"); F=$PWD/x/$N
mkdir -p "$F"; touch "$F/cgroup.kill" "$F/cgroup.procs"; printf %s "$F" >"$A/cgroup"
env -i setsid sh -c "{lives}" >/dev/null 2>&1 &
""",
    "without a note": """
rm "$DISPATCHD_ATTEMPT_FOLDER/cgroup"
env -i setsid sh -c "{lives}" >/dev/null 2>&1 &
""",
}
"""What a run without isolation does to leave something behind; each process says its pid, and lives on."""


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "restarts"),
    [
        *((name, False) for name in ESCAPES),
        # The same shim ends whatever it is.
        *few(((name, True) for name in list(ESCAPES)[::3]), 1),
    ],
)
async def test_what_leaves_its_group_is_ended_and_counted(
    tmp_path: Path,
    delegated: Path,
    name: str,
    restarts: bool,  # noqa: FBT001  # a column of the table
) -> None:
    pid_file = tmp_path / "pid"
    lives = f"echo \\$\\$ >{pid_file}; exec sleep 600"
    # Until it has arrived where it wants to be, and somebody lets it go on.
    waits = f"while ! [ -s {pid_file} ] || ! [ -e {tmp_path}/go ]; do sleep 0.05; done"
    script = "G=$(sed -n s/^0:://p /proc/self/cgroup)" + ESCAPES[name].format(
        lives=lives
    )
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/sh", "-c", f"{script}{waits}"]},
            limits=f'env = {{ MOUNT = "{delegated.parent}" }}',
        )
        async with daemon_process.running_daemon(
            config, wrapper=inside(delegated)
        ) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(lambda: pid_file.exists() and pid_file.read_text().strip())
            if restarts:
                await to_thread.run_sync(daemon.stop)
                daemon.log_file.unlink()
                daemon.start()
                await daemon.until_logged("daemon_ready")
            (tmp_path / "go").touch()
            [finish] = await hub.until_finished("j", within_s=60)
            pid = int(pid_file.read_text())
            left = Path(f"/proc/{pid}").exists() and is_alive(pid)
            groups = [each.name for each in delegated.iterdir() if each.is_dir()]

    assert finish["result_status"] == "succeeded", finish
    assert not left
    assert "1 of its processes were left behind" in finish["result_summary"]
    if name != NAMED_AS_A_RUNS:
        # Such a one may be that of another daemon's run, and is left in place.
        assert groups == []


@pytest.mark.host
def test_only_what_was_handed_over_is_used(tmp_path: Path, delegated: Path) -> None:
    source = "from dispatchd.agent.engines.local.cgroup import Cgroups; print(Cgroups.find())"
    command = [sys.executable, "-c", source]

    found = subprocess.check_output([*inside(delegated), *command], text=True)
    os.removexattr(delegated, "user.delegate")
    refused = subprocess.check_output([*inside(delegated), *command], text=True)

    assert str(delegated) in found
    assert refused == "None\n"
    assert Cgroups.find(tmp_path) is None


@pytest.mark.host
async def test_a_summary_says_what_the_run_took_and_the_status_what_keeps_it_together(
    tmp_path: Path, delegated: Path
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with daemon_process.running_daemon(
            config, wrapper=inside(delegated)
        ) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            [finish] = await hub.until_finished("j")
            inside_words = (await call(daemon, "GET", "/v1/status"))["containment"]
    async with endpoint() as hub:
        config = write_config(tmp_path / "other", hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "k", "dag_name": "it"})
            [without] = await hub.until_finished("k")
            outside_words = (await call(daemon, "GET", "/v1/status"))["containment"]

    assert re.search(r"It took [\d.]+ s of CPU", finish["result_summary"])
    assert "CPU" not in without["result_summary"]
    assert inside_words.startswith("control groups")
    assert outside_words == "sessions and process groups"


def test_limits_are_set_and_usage_is_read_where_the_kernel_has_them(
    tmp_path: Path,
) -> None:
    """On a folder in place of the kernel's: its controllers are rarely there to try."""
    attempt, root = tmp_path / "attempt", tmp_path / "root"
    attempt.mkdir()
    root.mkdir()
    limits = Resources(memory_bytes=512 << 20, pids=100, cpu_weight=50)

    procs = Cgroups(root, ("cpu", "memory", "pids")).prepare(attempt, limits)
    os.write(procs, b"0")
    os.close(procs)
    [group] = root.iterdir()
    (group / "cgroup.kill").touch()
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group / "memory.peak").write_text("104857600\n")
    (group / "memory.events").write_text("oom 1\noom_kill 2\n")
    (group / "pids.events").write_text("max 3\n")
    found = Group.of(attempt, root)

    written = {each.name: each.read_text() for each in group.iterdir()}
    assert written["memory.max"] == str(512 << 20)
    assert written["pids.max"] == "100"
    assert written["cpu.weight"] == "50"
    assert written["cgroup.procs"] == "0"
    assert found is not None
    assert found.usage() == Usage(
        cpu_s=2.5, peak_memory_bytes=100 << 20, oom_kills=2, pids_refused=3
    )


def test_limits_without_their_controllers_are_left_out(tmp_path: Path) -> None:
    attempt, root = tmp_path / "attempt", tmp_path / "root"
    attempt.mkdir()
    root.mkdir()

    limits = Resources(memory_bytes=1, pids=9)

    os.close(Cgroups(root, ("pids",)).prepare(attempt, limits))

    [group] = root.iterdir()
    assert sorted(each.name for each in group.iterdir()) == ["cgroup.procs", "pids.max"]


def test_an_end_for_want_of_memory_is_named() -> None:
    usage = Usage(cpu_s=1.25, peak_memory_bytes=512 << 20, oom_kills=1)
    end = Exit(code=137, usage=usage)

    summary = judge(Evidence(end=end, story=Story(), duration_s=2.0), None).summary

    assert "Ended by SIGKILL" in summary
    assert "The kernel ended 1 of its processes for want of memory." in summary
    assert "It took 1.2 s of CPU and up to 512 MiB of memory." in summary


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(0, "Succeeded after 2 s."), (2, "Failed with exit code 2 after 2 s.")],
)
def test_a_limit_of_processes_that_was_hit_is_named(code: int, sentence: str) -> None:
    def summary(refused: int) -> str:
        end = Exit(code=code, usage=Usage(pids_refused=refused))
        return judge(Evidence(end=end, story=Story(), duration_s=2.0), None).summary

    assert summary(0) == sentence
    assert summary(1) == (
        f"{sentence} 1 start of a process was refused because of its limit (pids_max)."
    )
    assert summary(3) == (
        f"{sentence} 3 starts of a process were refused because of its limit (pids_max)."
    )


@pytest.mark.host
async def test_a_run_that_hits_its_limit_of_processes_says_so(
    tmp_path: Path, delegated: Path
) -> None:
    """Where the kernel's pids controller is in the tree of version 2."""
    if "pids" not in (delegated / "cgroup.controllers").read_text().split():
        pytest.skip("the pids controller isn't in this machine's tree of version 2")
    own = delegated / "supervisor"
    own.mkdir()
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/bash", "-c", script]},
            limits="pids_max = 4",
        )
        async with daemon_process.running_daemon(config, wrapper=inside(own)):
            hub.hand_out({"id": "j", "dag_name": "it"})
            [finish] = await hub.until_finished("j", within_s=60)

    assert re.search(
        r"starts? of a process w\w+ refused because of its limit \(pids_max\)",
        finish["result_summary"],
    )


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take precedence")
async def test_a_run_has_nothing_of_the_precedence_that_the_daemon_has(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/usr/bin/nice"]})
        wrapper = ("/usr/bin/nice", "-n", "-5")
        async with daemon_process.running_daemon(config, wrapper=wrapper) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")
            own = os.getpriority(os.PRIO_PROCESS, daemon.process.pid)

    output = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    assert own == -5
    assert output == "0\n"


def test_a_note_that_a_command_has_written_is_no_group(tmp_path: Path) -> None:
    attempt, root, forged = (tmp_path / name for name in ("attempt", "root", "forged"))
    for folder in (attempt, root):
        folder.mkdir()
    cgroups = Cgroups(root)
    os.close(cgroups.prepare(attempt, Resources()))
    [group] = root.iterdir()
    (group / "cgroup.kill").touch()
    (forged / group.name).mkdir(parents=True)
    (forged / group.name / "cgroup.kill").touch()

    (attempt / "cgroup").write_text(str(forged / group.name))

    assert Group.of(attempt, root) is None
    assert cgroups.group_of(attempt) == Group(group)
    (attempt / "cgroup").unlink()
    assert cgroups.group_of(attempt) == Group(group)


def test_groups_that_a_run_has_made_are_strays(tmp_path: Path) -> None:
    for name in ("supervisor", "run-0123", "mine", "mine/below"):
        (tmp_path / name).mkdir()

    found = Cgroups(tmp_path, (), tmp_path / "supervisor").strays()

    assert found == [Group(tmp_path / "mine")]
