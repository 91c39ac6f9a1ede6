"""The first commands on a machine that has nothing: how many they are, and how long they take.

Those to a service are counted in `test_service_booted.py`, those to a check on a pull request in `test_tutorials.py`.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.clean_machine import HOME, ROOT, CleanMachine, clean_machine
from support.patience import killed_if_late

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]

CLONE = f"{HOME}/dispatchd"
PATIENCE_S = 400
"""Longest wait for what is installed (seconds)."""

MOST_TO_A_JOB = 2
"""Most commands from a clone to a job of one's own (count)."""

CONFIG = "--config dispatchd-quickstart/hub/hub.toml"


def clone(machine: CleanMachine) -> None:
    """Bring the files of this checkout, as a clone would."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True
    ).stdout
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"],
        cwd=ROOT,
        input=listed,
        capture_output=True,
        check=True,
    ).stdout
    machine.run("mkdir dispatchd")
    machine.run("tar --extract", within=CLONE, given=packed)


@contextmanager
def started(machine: CleanMachine, command: str, until: str) -> Iterator[str]:
    """Run a command in the foreground; yield what it has printed once a line begins so."""
    with subprocess.Popen(
        machine.command(command, within=CLONE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            with killed_if_late(process, PATIENCE_S):
                lines = [""]
                while not lines[-1].startswith(until):
                    lines.append(process.stdout.readline())
                    assert lines[-1], "".join(lines)
                yield "".join(lines)
        finally:
            process.kill()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[CleanMachine]:
    with clean_machine(tmp_path / "machine") as found:
        clone(found)
        yield found


def test_from_a_clone_to_an_own_job_and_a_second_machine(
    machine: CleanMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        "make quickstart",
        f".venv/bin/dispatchd hub run hello --watch {CONFIG}",
    ]
    begun = time.monotonic()
    with started(machine, commands[0], until="Ctrl-C ends both") as shown:
        quickstart_s = time.monotonic() - begun
        script = "dispatchd-quickstart/machine/hello.sh"
        machine.run(
            f"tee {script}", within=CLONE, given=b"#!/bin/sh\necho my own words\n"
        )
        begun = time.monotonic()
        ran = machine.run(commands[1], within=CLONE)
        own_s = time.monotonic() - begun
        job_id = ran.split()[0]
        log = machine.run(
            f".venv/bin/dispatchd hub logs {job_id} {CONFIG}", within=CLONE
        )

        added = machine.run(
            f".venv/bin/dispatchd hub machine add build-1 {CONFIG}", within=CLONE
        )
        [join] = re.findall(r"dispatchd (join \S+ \S+)", added)
        with clean_machine(tmp_path / "second") as second:
            share_program(machine, second)
            begun = time.monotonic()
            joined = second.run(f"{CLONE}/.venv/bin/dispatchd {join}")
            join_s = time.monotonic() - begun
        machines = machine.run(
            f".venv/bin/dispatchd hub machines {CONFIG}", within=CLONE
        )

    with capsys.disabled():
        print(f"\n2 commands to an own job: {quickstart_s:.0f} s + {own_s:.1f} s")
        print(f"1 command for a second machine: {join_s:.1f} s")
    assert "job      hello: succeeded" in shown
    assert f"{job_id}  succeeded" in ran
    assert "my own words" in log
    assert len(commands) <= MOST_TO_A_JOB
    assert "joined http://127.0.0.1:" in joined
    assert re.search(r"build-1 +active", machines), machines


def share_program(machine: CleanMachine, second: CleanMachine) -> None:
    """Install on a second machine what the first one has, without what it has made there."""
    pack = "tar --create --exclude=dispatchd-quickstart dispatchd"
    packed = subprocess.run(machine.command(pack), capture_output=True, check=True)
    second.run("tar --extract", given=packed.stdout)
