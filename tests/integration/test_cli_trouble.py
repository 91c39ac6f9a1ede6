"""Every command where something is wrong: one clear line, the right exit code, never a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.store.codec import SCHEMA_VERSION
from dispatchd.agent.store.jobs import JobStore
from dispatchd.protocol.job import Job
from support.cli import Done, dispatchd_process
from support.cli import dispatchd as run_here
from support.daemon import write_config
from support.daemon_process import DaemonProcess, running_daemon
from support.endpoint import endpoint
from support.records import NOW

ASK = [["drain"], ["pause"], ["resume"], ["reload"], ["status"]]
STEER = [
    ["cancel", "job-1"],
    ["block", "job-1", "--reason", "x"],
    ["resolve", "job-1", "--fail"],
]
LOOK = [["jobs"], ["show", "job-1"], ["logs", "job-1"]]
NOWHERE = "http://127.0.0.1:9"


def dispatchd(config: Path, *words: str) -> "Said":
    return Said.of(run_here(*words, "--config", str(config)))


class Said:
    def __init__(self, code: int, out: str, lines: list[str]) -> None:
        self.code, self.out, self.lines = code, out, lines

    @classmethod
    def of(cls, done: Done) -> "Said":
        assert "Traceback" not in done.stderr, done.stderr
        return cls(done.returncode, done.stdout, done.stderr.splitlines())


def name_of(words: list[str]) -> str:
    return words[0]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A machine with one tracked job and no daemon."""
    file = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    store, _ = JobStore.open(tmp_path / "state")
    store.put(TrackedJob.received(Job(id="job-1", workflow="it"), now=NOW))
    store.close()
    return file


@pytest.mark.parametrize("words", [*ASK, *STEER], ids=name_of)
def test_without_a_daemon(config: Path, words: list[str]) -> None:
    said = dispatchd(config, *words)

    assert said.code == os.EX_UNAVAILABLE
    [line] = said.lines
    assert "no daemon is running" in line
    assert "dispatchd run" in line


@pytest.mark.parametrize("words", LOOK[:2], ids=name_of)
def test_what_the_store_knows_is_shown_without_a_daemon(
    config: Path, words: list[str]
) -> None:
    said = dispatchd(config, *words)

    assert said.code == 0
    assert "job-1" in said.out
    assert said.lines == []


@pytest.fixture
async def stuck(config: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon that takes connections and does nothing."""
    async with endpoint() as hub:
        text = config.read_text().replace(NOWHERE, hub.url)
        config.write_text(text)
        async with running_daemon(config) as daemon:
            daemon.process.send_signal(signal.SIGSTOP)
            yield daemon
            daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param([["status"], ["jobs"]], id="few"),
        # These wait twice as long to be sure.
        pytest.param([["pause"], STEER[0]], id="more", marks=pytest.mark.torture),
    ],
)
async def test_with_a_stuck_daemon(
    stuck: DaemonProcess, asked: list[list[str]]
) -> None:
    answers: dict[str, Said] = {}

    async def ask(words: list[str]) -> None:
        here = ("--config", str(stuck.config))
        done = await to_thread.run_sync(lambda: dispatchd_process(*words, *here))
        answers[name_of(words)] = Said.of(done)

    # Each waits for as long as it takes to be sure, so all wait together.
    async with anyio.create_task_group() as tasks:
        for words in asked:
            tasks.start_soon(ask, words)
    for name, said in answers.items():
        note = said.lines[-1]
        assert "doesn't answer" in note, name
        if name != "jobs":
            assert said.code == os.EX_UNAVAILABLE, name
            continue
        # What the store has is shown all the same.
        assert said.code == 0
        assert "job-1" in said.out
        assert said.lines == [note]


@pytest.mark.parametrize("words", [["run"], ["status"], *STEER, *LOOK], ids=name_of)
def test_with_a_newer_store(config: Path, words: list[str]) -> None:
    [record] = (config.parent / "state" / "jobs").iterdir()
    newer = record.read_text().replace(
        f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'
    )
    record.write_text(newer)

    said = dispatchd(config, *words)

    assert said.code == os.EX_CONFIG
    [line] = said.lines
    assert "schema_version 99" in line
    assert "newer release" in line


POWERLESS = """
import json, sys
from support.cli import dispatchd

said = {}
for words in json.loads(sys.argv[1]):
    done = dispatchd(*words, "--config", sys.argv[2])
    said[words[0]] = [done.returncode, done.stdout, done.stderr]
print(json.dumps(said))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give its power up")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_without_permission(config: Path) -> None:
    commands = [["run"], *ASK, *STEER, *LOOK]
    state = config.parent / "state"
    state.chmod(0o700)
    os.chown(state, 12345, 12345)
    # Under it root may no more than others.
    powerless = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    # One process for all: each command would take half a second to start.
    program = (*powerless, sys.executable, "-c", POWERLESS)
    try:
        done = subprocess.run(
            [*program, json.dumps(commands), str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
    finally:
        os.chown(state, 0, 0)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert sorted(answers) == sorted(name_of(words) for words in commands)
    for name, (code, _, err) in answers.items():
        assert code in (os.EX_NOPERM, os.EX_UNAVAILABLE), name
        [line] = err.splitlines()
        assert str(state) in line, name
        assert "this user" in line, name


@pytest.mark.parametrize("words", [["run"], *ASK, *STEER, *LOOK], ids=name_of)
def test_without_a_configuration(tmp_path: Path, words: list[str]) -> None:
    said = dispatchd(tmp_path / "none.toml", *words)

    assert said.code == os.EX_CONFIG
    [line] = said.lines
    assert "none.toml" in line
    assert "--config" in line


def test_a_daemon_is_asked_though_its_configuration_is_broken_by_now(
    config: Path,
) -> None:
    with config.open("a") as file:
        file.write("[runs]\n" if "[runs]" not in config.read_text() else "[nonsense]\n")

    said = dispatchd(config, "status")

    assert said.code == os.EX_UNAVAILABLE
    assert "job" not in said.lines[0]
    assert "no daemon is running" in said.lines[0]


@pytest.mark.parametrize("kind", ["link", "folder", "bytes"])
def test_a_daemon_is_asked_though_a_drop_in_is_broken_by_now(
    config: Path, kind: str
) -> None:
    drop_in = config.with_name(f"{config.name}.d") / "90-mine.toml"
    drop_in.parent.mkdir()
    if kind == "link":
        drop_in.symlink_to("nowhere")
    elif kind == "folder":
        drop_in.mkdir()
    else:
        drop_in.write_bytes(b"\xff")

    said = dispatchd(config, "status")

    assert said.code == os.EX_UNAVAILABLE
    assert any("no daemon is running" in line for line in said.lines)
