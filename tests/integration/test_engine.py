"""The local engine by itself: identities, gates, and what a shim leaves behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.gate import read_exit
from dispatchd.agent.engines.local.process import identify, is_alive, open_pidfd
from dispatchd.linux.subreaper import children_of
from dispatchd.protocol.outcome import Exit, NeverStarted
from dispatchd.redaction.known_secrets import KnownSecrets


def launch(tmp_path: Path, script: str) -> Launch:
    folder, workspace = tmp_path / "attempt-1", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()
    return Launch(
        run_id="r",
        command=("/bin/sh", "-c", script),
        env={"PATH": os.defpath},
        workspace=workspace,
        folder=folder,
        output_file=folder / "output.log",
        files=folder / "run",
        isolation=Isolation.NONE,
    )


@pytest.fixture
def local() -> Iterator[LocalEngine]:
    with closing(LocalEngine.here({}, KnownSecrets())) as found:
        yield found


def own() -> ProcessIdentity:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_a_process_is_its_pid_start_time_and_boot() -> None:
    fd = open_pidfd(own())

    assert fd is not None
    os.close(fd)
    assert open_pidfd(evolve(own(), start_ticks=own().start_ticks + 1)) is None
    assert open_pidfd(evolve(own(), boot_id="another")) is None


NEVER = f"never-opened-{os.getpid()}"


@pytest.mark.parametrize(
    ("files", "same_boot", "expected"),
    [
        ({"exit": "0\n", "started": ""}, True, Exit(code=0)),
        ({"exit": "143\n", "started": ""}, False, Exit(code=143)),
        ({"exit": "0", "started": ""}, True, Exit(code=None)),
        ({"exit": "", "started": ""}, True, Exit(code=None)),
        ({"exit": "rm -rf\n", "started": ""}, True, Exit(code=None)),
        ({"started": ""}, True, Exit(code=None)),
        ({NEVER: ""}, True, NeverStarted()),
        # A mark of an earlier shim, whose attempt was begun again.
        ({"never-opened-1": ""}, True, Exit(code=None)),
        ({NEVER: "", "started": ""}, True, Exit(code=None)),
        # After a power cut, or an error of the file system, each of them may be missing although the run had begun.
        ({}, True, Exit(code=None)),
        ({}, False, Exit(code=None)),
        ({NEVER: ""}, False, Exit(code=None)),
    ],
)
def test_what_a_shim_leaves_says_how_it_ended(
    tmp_path: Path,
    files: dict[str, str],
    same_boot: bool,  # noqa: FBT001  # a column of the table
    expected: Exit | NeverStarted,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    assert (
        read_exit(tmp_path, own() if same_boot else evolve(own(), boot_id="another"))
        == expected
    )


async def test_the_identity_is_recorded_before_the_command_runs(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "echo ran; exit 3")
    recorded: list[ProcessIdentity] = []

    async def record(process: ProcessIdentity) -> None:
        assert not (ready.folder / "started").exists()
        recorded.append(process)

    await local.start(ready, record)
    end = await local.observe(recorded[0], ready.folder)

    assert end == Exit(code=3)
    assert ready.output_file.read_text() == "ran\n"


async def test_what_a_run_has_left_is_found_though_its_starter_was_killed_since(
    local: LocalEngine, tmp_path: Path
) -> None:
    others = set(children_of(os.getpid()))
    ready = launch(tmp_path, "setsid sleep 300 & echo $!")
    recorded: list[ProcessIdentity] = []

    async def record(process: ProcessIdentity) -> None:
        recorded.append(process)

    await local.start(ready, record)
    assert await local.observe(recorded[0], ready.folder) == Exit(code=0)
    left = identify(int(ready.output_file.read_text()))
    [starter] = set(children_of(os.getpid())) - others
    os.kill(starter, signal.SIGKILL)
    cleared = await local.clear(recorded[0], ready.folder)

    assert cleared.ended == 1
    assert left is not None
    assert not is_alive(left)


async def test_an_attempt_that_never_began_is_no_hiding_place(
    local: LocalEngine, tmp_path: Path
) -> None:
    for name in ("never", "liar"):
        (tmp_path / name).mkdir()
    never = launch(tmp_path / "never", "echo ran")
    recorded: list[ProcessIdentity] = []

    async def record_and_fail(process: ProcessIdentity) -> None:
        recorded.append(process)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  # the very one from above
        await local.start(never, record_and_fail)
    assert await local.observe(recorded[0], never.folder) == NeverStarted()

    lie = f"DISPATCHD_ATTEMPT_FOLDER={never.folder}"
    ready = launch(tmp_path / "liar", f"{lie} setsid sleep 300 & echo $!")

    async def record(process: ProcessIdentity) -> None:
        recorded.append(process)

    await local.start(ready, record)
    assert await local.observe(recorded[1], ready.folder) == Exit(code=0)
    left = identify(int(ready.output_file.read_text()))
    cleared = await local.clear(recorded[1], ready.folder)

    assert cleared.ended == 1
    assert left is None or not is_alive(left)


async def test_nothing_runs_if_the_identity_cannot_be_recorded(
    local: LocalEngine, tmp_path: Path
) -> None:
    ready = launch(tmp_path, "echo ran")
    recorded: list[ProcessIdentity] = []

    async def record(process: ProcessIdentity) -> None:
        recorded.append(process)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  # the very one from above
        await local.start(ready, record)
    end = await local.observe(recorded[0], ready.folder)

    assert end == NeverStarted()
    assert ready.output_file.read_text() == ""


async def test_nothing_runs_if_the_daemon_dies_behind_the_closed_gate(
    local: LocalEngine,
    tmp_path: Path,
) -> None:
    ready = launch(tmp_path, "echo ran")
    source = f"""
import os
from pathlib import Path
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.enclosure import Enclosed
from dispatchd.agent.engines.local.gate import Gated
from dispatchd.agent.engines.local.starters import Starter
p = Path({str(tmp_path)!r})
gated = Gated.spawn(Launch(run_id="r", command=("/bin/sh", "-c", "echo ran"), env={{}}, workspace=p / "workspace",
                           folder=p / "attempt-1", output_file=p / "attempt-1" / "output.log", files=p), Enclosed(command=("/bin/sh", "-c", "echo ran"), env={{}}), Starter())
print(gated.identity.pid, gated.identity.start_ticks, gated.identity.boot_id, flush=True)
os.kill(os.getpid(), 9)
"""
    dead = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=False
        )
    )
    pid, ticks, boot = dead.stdout.split()
    process = ProcessIdentity(pid=int(pid), start_ticks=int(ticks), boot_id=boot)

    end = await local.observe(process, ready.folder)

    assert end == NeverStarted()
    assert ready.output_file.read_text() == ""


async def test_a_process_whose_pid_is_that_of_a_thread_now_is_gone() -> None:
    """As after a reboot."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        former = ProcessIdentity(
            pid=thread.native_id or 0, start_ticks=1, boot_id="another"
        )
        assert open_pidfd(former) is None
    finally:
        over.set()
        thread.join()
