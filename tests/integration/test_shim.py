"""The starter and its shims: what they leave, whatever happens to the processes around them."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.process import REQUEST_NAME
from dispatchd.agent.engines.local.starters import Starter
from dispatchd.linux.subreaper import children_of
from dispatchd.protocol.outcome import Exit
from dispatchd.redaction.known_secrets import KnownSecrets
from support.until import until


@pytest.fixture
def local() -> Iterator[LocalEngine]:
    with closing(LocalEngine.here(dict(os.environ), KnownSecrets())) as found:
        yield found


def launch(folder: Path, *command: str, **env: str) -> Launch:
    attempt, workspace = folder / "attempt-1", folder / "workspace"
    attempt.mkdir(parents=True)
    workspace.mkdir()
    return Launch(
        run_id="r",
        command=command,
        env={"PATH": os.defpath, **env},
        workspace=workspace,
        folder=attempt,
        output_file=attempt / "output.log",
        files=attempt / "run",
        isolation=Isolation.NONE,
    )


async def started(local: LocalEngine, ready: Launch) -> ProcessIdentity:
    identities: list[ProcessIdentity] = []

    async def record(process: ProcessIdentity) -> None:
        identities.append(process)

    await local.start(ready, record)
    return identities[0]


def starter_of(process: ProcessIdentity) -> int:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


async def test_an_exit_code_that_a_run_has_forged_counts_for_nothing(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(
        tmp_path,
        "/bin/sh",
        "-c",
        'echo 0 >"$DISPATCHD_ATTEMPT_FOLDER/exit"; kill -9 "$PPID"; exit 7',
    )

    end = await local.observe(await started(local, ready), ready.folder)

    assert end == Exit(code=None)


async def test_an_exit_code_is_what_the_kernel_says_and_not_what_a_file_says(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(
        tmp_path, "/bin/sh", "-c", "mkdir ../attempt-1/exit; echo out; exit 7"
    )

    end = await local.observe(await started(local, ready), ready.folder)

    assert end == Exit(code=7)


async def test_a_shim_outlives_its_starter_and_another_one_takes_its_place(
    local: LocalEngine, tmp_path: Path
) -> None:
    one = launch(tmp_path / "1", "/bin/sh", "-c", "read line <pipe; exit 3")
    two = launch(tmp_path / "2", "/bin/sh", "-c", "exit 4")
    os.mkfifo(one.workspace / "pipe")
    first = await started(local, one)

    os.kill(starter_of(first), signal.SIGKILL)
    second = await started(local, two)
    with (one.workspace / "pipe").open("w") as pipe:
        pipe.write("go\n")

    assert await local.observe(second, two.folder) == Exit(code=4)
    assert await local.observe(first, one.folder) == Exit(code=3)


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.torture)])
async def test_a_starter_that_is_killed_as_it_forks_gives_no_attempt_two_shims(
    local: LocalEngine, tmp_path: Path, rounds: int
) -> None:
    """The first shim may be behind its gate when the starter's answer is lost."""

    def kill_once_it_forks(starter: int, known: list[int]) -> None:
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            if set(children_of(starter)) - set(known):
                os.kill(starter, signal.SIGKILL)
                return

    ends = []
    for number in range(rounds):
        before = launch(tmp_path / f"{number}-before", "/bin/sh", "-c", "read _ <pipe")
        script = "echo x >>ran; read _ <pipe; exit 3"
        ready = launch(tmp_path / str(number), "/bin/sh", "-c", script)
        for each in (before, ready):
            os.mkfifo(each.workspace / "pipe")
        first = await started(local, before)
        starter = starter_of(first)
        killer = threading.Thread(
            target=kill_once_it_forks, args=(starter, children_of(starter))
        )
        killer.start()
        process = await started(local, ready)
        await to_thread.run_sync(killer.join)
        (ready.workspace / "pipe").write_text("go\n")
        end = await local.observe(process, ready.folder)
        ends.append((end, (ready.workspace / "ran").read_text()))
        (before.workspace / "pipe").write_text("go\n")
        await local.observe(first, before.folder)

    assert ends == [(Exit(code=3), "x\n")] * rounds


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let this process and its children have few more descriptors than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
async def test_more_leftovers_than_descriptors_are_ended(
    local: LocalEngine, tmp_path: Path
) -> None:
    script = "for n in $(seq 200); do env -i setsid sleep 300 & done; exit 7"
    ready = launch(tmp_path, "/bin/sh", "-c", script)
    process = await started(local, ready)

    assert await local.observe(process, ready.folder) == Exit(code=7)
    cleared = await local.clear(process, ready.folder)

    assert (cleared.ended, cleared.survivors) == (200, ())


@pytest.mark.usefixtures("few_descriptors")
async def test_a_run_with_more_processes_than_descriptors_is_stopped(
    local: LocalEngine, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    child.write_text("trap '' TERM; echo >>$0.up; while :; do sleep 300; done")
    script = f"trap '' TERM; for n in $(seq 100); do setsid sh {child} & done; wait"
    ready = launch(tmp_path, "/bin/sh", "-c", script)
    process = await started(local, ready)
    up = tmp_path / "child.up"
    await until(lambda: up.exists() and up.stat().st_size == 100, 60)

    assert await local.stop(process, 0.1)
    await local.observe(process, ready.folder)
    await local.clear(process, ready.folder)

    assert running(str(child)) == []


async def test_a_run_s_standard_input_is_its_own(
    local: LocalEngine, tmp_path: Path
) -> None:
    script = "import fcntl, os; print(fcntl.fcntl(0, fcntl.F_GETFL) & os.O_APPEND); fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND)"
    for name in ("1", "2"):
        ready = launch(tmp_path / name, sys.executable, "-c", script)
        process = await started(local, ready)
        assert await local.observe(process, ready.folder) == Exit(code=0)
        assert ready.output_file.read_text() == "0\n"


async def test_signals_that_were_ignored_at_the_start_are_not_for_runs(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "/bin/sh", "-c", "grep SigIgn /proc/self/status; exit 3")
    ignored = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTSTP)
    }
    try:
        process = await started(local, ready)
    finally:
        for number, handler in ignored.items():
            signal.signal(number, handler)

    assert await local.observe(process, ready.folder) == Exit(code=3)
    # Two belong to the C library, which lets nobody set them (signal(7)).
    mask = int(ready.output_file.read_text().removeprefix("SigIgn:"), 16)
    assert not mask & ~(0b11 << 31)


async def test_a_starter_that_hangs_keeps_no_attempt_from_starting(
    local: LocalEngine, tmp_path: Path
) -> None:
    one = launch(tmp_path / "1", "/bin/sh", "-c", "read line <pipe")
    two = launch(tmp_path / "2", "/bin/sh", "-c", "exit 4")
    os.mkfifo(one.workspace / "pipe")
    first = await started(local, one)
    starter = starter_of(first)
    with (one.workspace / "pipe").open("w") as pipe:
        pipe.write("go\n")
    await local.observe(first, one.folder)

    os.kill(starter, signal.SIGSTOP)
    end = await local.observe(await started(local, two), two.folder)

    assert end == Exit(code=4)


async def test_the_event_loop_forgets_a_shim_while_its_starter_hangs(
    tmp_path: Path,
) -> None:
    request = {"command": ["/bin/true"], "env": {}, "workspace": "/", "folder": "/"}
    text = json.dumps({**request, "rules": None, "deaf": False}).encode()

    def start() -> None:
        """Have a shim started whose gate stays closed."""
        with ExitStack() as fds:
            read_end, gate = (fds.enter_context(os.fdopen(fd)) for fd in os.pipe())
            output = fds.enter_context((tmp_path / "output").open("w"))
            folder = os.open(tmp_path, os.O_RDONLY)
            fds.callback(os.close, folder)
            starter.start(text, [read_end.fileno(), output.fileno(), folder])
            gate.close()

    def is_asked() -> bool:
        with suppress(FileNotFoundError):
            fds = Path("/proc/self/fd").iterdir()
            return any(REQUEST_NAME in str(fd.readlink()) for fd in fds)
        return False

    others = set(children_of(os.getpid()))
    with closing(Starter(dict(os.environ))) as starter:
        await to_thread.run_sync(start)
        [process] = set(children_of(os.getpid())) - others
        os.kill(process, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, start)
            await until(is_asked)
            starter.forget(1)
            # Soon enough for the start, which would fail otherwise.
            os.kill(process, signal.SIGCONT)


async def test_the_shim_is_out_of_reach_of_a_command_s_environment(
    local: LocalEngine, tmp_path: Path
) -> None:
    nothing = str(tmp_path / "nothing")
    ready = launch(
        tmp_path,
        "/bin/sh",
        "-c",
        "exit 5",
        PATH=nothing,
        LD_PRELOAD=f"{nothing}.so",
        PYTHONPATH=nothing,
        PYTHONHOME=nothing,
        BASH_ENV=nothing,
        ENV=nothing,
    )

    end = await local.observe(await started(local, ready), ready.folder)

    assert end == Exit(code=5)


@pytest.mark.parametrize(
    ("content", "mode", "code", "word"),
    [
        ("echo a shell script without a first line; exit 9\n", 0o755, 9, "a shell"),
        ("#!/nonexistent/interpreter\n", 0o755, 127, "No such file"),
        ("\x7fELF but not really", 0o755, None, ""),
    ],
)
async def test_what_cannot_be_executed_ends_as_in_a_shell(
    local: LocalEngine,
    tmp_path: Path,
    content: str,
    mode: int,
    code: int | None,
    word: str,
) -> None:
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(mode)
    ready = launch(tmp_path / "run", str(program))

    end = await local.observe(await started(local, ready), ready.folder)

    assert isinstance(end, Exit)
    assert end.code == code if code is not None else end.code != 0
    assert word in ready.output_file.read_text()


@pytest.mark.parametrize("is_script", [False, True], ids=["itself", "interpreter"])
async def test_a_program_that_is_being_installed_is_executed_when_it_is_there(
    local: LocalEngine,
    tmp_path: Path,
    is_script: bool,  # noqa: FBT001  # a column of the table
) -> None:
    """The kernel refuses to execute a file that is open for writing (execve(2), ETXTBSY)."""
    program = command = tmp_path / "tool"
    shutil.copy("/bin/true", program)
    if is_script:
        command = tmp_path / "script"
        command.write_text(f"#!{program}\n")
        command.chmod(0o700)
    ready = launch(tmp_path / "run", str(command))
    with program.open("r+b"):
        process = await started(local, ready)
        await until((ready.folder / "started").exists)

    assert await local.observe(process, ready.folder) == Exit(code=0)


async def test_signals_that_the_daemon_ignores_are_not_ignored_by_a_command(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "/bin/sh", "-c", "grep SigIgn /proc/self/status")

    await local.observe(await started(local, ready), ready.folder)

    name, mask = ready.output_file.read_text().split()
    # The C library keeps 32 and 33 for itself (signal(7)); whoever started these tests may have ignored them.
    assert (name, int(mask, 16) & ~(0b11 << 31)) == ("SigIgn:", 0)


async def test_a_command_gets_no_descriptor_but_its_three(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "/bin/sh", "-c", "ls /proc/$$/fd")

    await local.observe(await started(local, ready), ready.folder)

    assert ready.output_file.read_text().split() == ["0", "1", "2"]


async def test_a_shim_is_shown_by_its_attempt(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "/bin/sh", "-c", "read line <pipe")
    os.mkfifo(ready.workspace / "pipe")
    process = await started(local, ready)

    def shown() -> str:
        found = subprocess.run(
            ["/usr/bin/pgrep", "-f", f"dispatchd-run {ready.folder}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout

    assert await until(shown, 10, "a shim with its title") == f"{process.pid}\n"
    with (ready.workspace / "pipe").open("w") as pipe:
        pipe.write("go\n")
    await local.observe(process, ready.folder)


async def test_secrets_of_a_run_are_found_again_by_a_daemon_that_did_not_start_it(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(
        tmp_path,
        "/bin/sh",
        "-c",
        "read line <pipe",
        TOKEN="a-secret-of-the-run",
        DISPATCHD_SECRETS="TOKEN",
    )
    os.mkfifo(ready.workspace / "pipe")
    process = await started(local, ready)
    known = KnownSecrets()

    with closing(LocalEngine.here({}, known)) as later:
        assert await later.recall(process, ready.folder)

    assert "a-secret-of-the-run" not in known.scrub("it is a-secret-of-the-run")
    with (ready.workspace / "pipe").open("w") as pipe:
        pipe.write("go\n")
    await local.observe(process, ready.folder)


HIDDEN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", "{heed} echo $$ >hidden.aside; mv hidden.aside hidden; while :; do sleep 0.1; done"], {{}})
    os._exit(0)
while not os.path.exists("hidden"):
    time.sleep(0.01)
print("ready", flush=True)
{then}
"""


def hiding(tmp_path: Path, heed: str = "", then: str = "") -> Launch:
    """Return a launch that leaves a process without its session, group and environment."""
    source = HIDDEN.format(heed=heed, then=then)
    return launch(tmp_path, sys.executable, "-S", "-E", "-c", source)


async def the_end_of(pid: int) -> None:
    await until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the end of a leftover")


@pytest.mark.parametrize("heed", ["", "trap : TERM HUP;"])
async def test_a_process_that_hides_ends_with_its_run(
    local: LocalEngine, tmp_path: Path, heed: str
) -> None:
    ready = hiding(tmp_path, heed)

    process = await started(local, ready)
    end = await local.observe(process, ready.folder)
    cleared = await local.clear(process, ready.folder)

    assert end == Exit(code=0)
    assert cleared.ended >= 1
    await the_end_of(int((ready.workspace / "hidden").read_text()))


async def test_a_process_that_hides_ends_with_a_run_that_is_killed(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = hiding(tmp_path, "trap : TERM HUP;", "time.sleep(300)")
    process = await started(local, ready)
    await until(lambda: "ready" in ready.output_file.read_text(), 30, "a command")

    await local.stop(process, 0)
    await local.clear(process, ready.folder)

    await the_end_of(int((ready.workspace / "hidden").read_text()))


@pytest.mark.parametrize("how", ["by itself", "killed"])
async def test_a_process_that_hides_ends_though_another_daemon_has_started_its_run(
    tmp_path: Path, how: str
) -> None:
    kills = how == "killed"
    then = "time.sleep(300)" if kills else "sys.stdin = open('go')"
    ready = hiding(tmp_path, "trap : TERM HUP;", then)
    os.mkfifo(ready.workspace / "go")
    with closing(LocalEngine.here({}, KnownSecrets())) as earlier:
        process = await started(earlier, ready)
        await until(lambda: "ready" in ready.output_file.read_text(), 30, "a command")
    hidden = int((ready.workspace / "hidden").read_text())
    with closing(LocalEngine.here({}, KnownSecrets())) as later:
        if kills:
            await later.stop(process, 0)
        else:
            (ready.workspace / "go").write_text("")
        await later.observe(process, ready.folder)
        await later.clear(process, ready.folder)

    await the_end_of(hidden)


async def test_a_process_in_the_background_lives_as_long_as_its_run(
    local: LocalEngine, tmp_path: Path
) -> None:
    then = "os.kill(int(open('hidden').read()), 0); print('alive'); time.sleep(0.2)"
    ready = hiding(tmp_path, "", f"{then}; {then}")

    end = await local.observe(await started(local, ready), ready.folder)

    assert end == Exit(code=0), ready.output_file.read_text()
    assert ready.output_file.read_text().split() == ["ready", "alive", "alive"]


async def test_a_process_that_hides_ends_with_the_daemon_that_has_not_cleared_yet(
    tmp_path: Path,
) -> None:
    ready = hiding(tmp_path, "trap : TERM HUP;")
    with closing(LocalEngine.here({}, KnownSecrets())) as local:
        await local.observe(await started(local, ready), ready.folder)

    await the_end_of(int((ready.workspace / "hidden").read_text()))


DISGUISES = {
    "the name of another attempt": """
os.execve("/bin/sleep", ["sleep", "600"], {"DISPATCHD_ATTEMPT_FOLDER": "/nowhere/attempt-1"})
""",
    "a first thread that has ended": """
threading.Thread(target=time.sleep, args=(600,)).start()
libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
""",
    "memory without a command line": """
fields = open("/proc/self/stat", "rb").read().rpartition(b")")[2].split()
page = 4096
start, end = int(fields[45]) // page * page, int(fields[48]) + page
libc.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
threading.Thread(target=lambda: (libc.munmap(start, (end - start) // page * page), libc.pause())).start()
""",
}
"""Ways of a process not to be known as what a run has left; each lives without its session, group and environment."""

DISGUISED = """
import ctypes, os, signal, sys, threading, time
libc = ctypes.CDLL(None)
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("hidden.aside", "w").write(str(os.getpid()))
    os.rename("hidden.aside", "hidden")
    {way}
elif os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-S", "-E", {source!r}, "hides"], {{}})
    os._exit(0)
else:
    while not os.path.exists("hidden"):
        time.sleep(0.01)
    time.sleep(0.1)
"""


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_process_in_disguise_ends_with_its_run(
    local: LocalEngine, tmp_path: Path, disguise: str
) -> None:
    source = tmp_path / "disguised.py"
    way = DISGUISES[disguise].strip().replace("\n", "\n    ")
    source.write_text(DISGUISED.format(way=way, source=str(source)))
    ready = launch(tmp_path / "run", sys.executable, "-S", "-E", str(source))

    process = await started(local, ready)
    end = await local.observe(process, ready.folder)
    await local.clear(process, ready.folder)

    assert end == Exit(code=0), ready.output_file.read_text()
    # By what it executes, since not even its number stays.
    await until(
        lambda: not running(str(source), "sleep\0600"), 30, "the end of a leftover"
    )
    await the_end_of(int((ready.workspace / "hidden").read_text()))


HOPS = """
#include <signal.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    time_t end = time(0) + 60;
    if (fork()) return 0;
    signal(SIGTERM, SIG_IGN);
    while (time(0) < end) { setsid(); if (fork() > 0) _exit(0); }
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
async def test_a_process_that_is_another_one_at_each_look_ends_with_its_run(
    local: LocalEngine, tmp_path: Path
) -> None:
    hops = tmp_path / "hops"
    subprocess.run(["cc", "-xc", "-", "-o", hops], input=HOPS.encode(), check=True)
    ready = launch(tmp_path / "run", "/bin/sh", "-c", f"env -i {hops}; sleep 0.1")

    process = await started(local, ready)
    await local.observe(process, ready.folder)
    cleared = await local.clear(process, ready.folder)

    assert cleared.survivors == ()
    await until(lambda: not running(str(hops)), 30, "the end of a leftover")


def running(*words: str) -> list[str]:
    """Return the command lines that have one of some words, without those of these tests."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (each / "cmdline").read_text(errors="replace")
            if any(word in line for word in words) and "pytest" not in line.split("\0"):
                found.append(line)
    return found


async def test_two_runs_that_end_together_are_each_told_of_their_own(
    local: LocalEngine, tmp_path: Path
) -> None:
    """What one has left is not counted for the other, although anybody may end it."""
    leaves = "setsid -f sleep 601; setsid -f sleep 601; sleep 0.2; exit 3"
    one = launch(tmp_path / "1", "/bin/sh", "-c", leaves)
    two = launch(tmp_path / "2", "/bin/sh", "-c", leaves)
    first, second = await started(local, one), await started(local, two)
    assert await local.observe(first, one.folder) == Exit(code=3)
    assert await local.observe(second, two.folder) == Exit(code=3)

    assert (await local.clear(first, one.folder)).ended == 2
    assert (await local.clear(second, two.folder)).ended == 2


def test_a_child_of_any_thread_is_a_child() -> None:
    found: list[subprocess.Popen[bytes]] = []
    over = threading.Event()

    def start() -> None:
        found.append(subprocess.Popen(["/bin/sleep", "600"]))
        over.wait()

    thread = threading.Thread(target=start)
    thread.start()
    while not found:
        time.sleep(0.01)
    try:
        assert found[0].pid in children_of(os.getpid())
    finally:
        over.set()
        thread.join()
        found[0].kill()
        found[0].wait()


async def test_a_run_keeps_no_start_away_by_descriptors_on_their_way(
    local: LocalEngine, tmp_path: Path
) -> None:
    """All of a user's count together (unix(7), ETOOMANYREFS); a daemon that is root is not asked."""
    ready = launch(
        tmp_path, sys.executable, "-c", "import resource; print(*resource.getrlimit(7))"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    await local.observe(await started(local, ready), ready.folder)

    of_run = [int(each) for each in ready.output_file.read_text().split()]
    # A message has up to 253 of them (SCM_MAX_FD), beyond the limit of its sender.
    assert of_run[1] + 253 < hard
    assert of_run[0] == min(soft, of_run[1])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
