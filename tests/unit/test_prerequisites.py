"""What is needed of the machine: each thing that is missing is one line that says what to do."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from dispatchd.agent.domain import runnable_workflows
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.limits import DEFAULT_PIDS_MAX
from dispatchd.agent.domain.runnable_workflows import Machine
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.linux.prerequisites import Needs, prerequisites
from dispatchd.protocol.finding import Finding, Level


def found(folder: Path, **needs: object) -> dict[str, Finding]:
    wanted = {"search_path": os.defpath, "home": "/", **needs}
    findings = prerequisites(Needs(state_folder=folder, **wanted))  # type: ignore[arg-type]  # of each test
    return {each.check: each for each in findings}


@pytest.mark.host
def test_a_machine_that_has_all_is_ok_in_every_line(tmp_path: Path) -> None:
    lines = found(tmp_path)

    assert {each.level for each in lines.values()} == {Level.OK}
    assert [*lines] == [
        *("pidfd", "proc", "devices", "shell", "durability", "exec", "home"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_keeps_nothing_is_a_failure() -> None:
    line = found(Path("/proc"))["durability"]

    assert line.level is Level.FAILED
    assert "put store.folder on a local file system" in line.message


def test_a_machine_without_git_fails_where_a_workflow_has_a_checkout(
    tmp_path: Path,
) -> None:
    assert "git" not in found(tmp_path, search_path="")
    line = found(tmp_path, search_path=str(tmp_path), checkout=True)["git"]

    assert line.level is Level.FAILED
    assert "install git" in line.message


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_a_home_that_is_not_there_is_a_warning(tmp_path: Path, home: str) -> None:
    line = found(tmp_path, home=home)["home"]

    assert line.level is Level.WARNING
    assert line.message.startswith("HOME is")


def test_a_system_without_certificates_fails_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))

    assert "certificates" not in found(tmp_path)
    line = found(tmp_path, system_certificates=True)["certificates"]

    assert line.level is Level.FAILED
    assert "install ca-certificates, or set cloud.ca_file" in line.message


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A file system on which no program can be executed."""
    folder = tmp_path / "noexec"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root that may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.host
@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("checkout", [False, True])
def test_a_folder_without_programs_is_named(noexec: Path, *, checkout: bool) -> None:
    line = found(noexec, checkout=checkout)["exec"]

    assert line.level is (Level.FAILED if checkout else Level.WARNING)
    assert "mount it without noexec" in line.message


def workflow(*own: str, **limits: int) -> Workflow:
    return Workflow(name="it", command=("/bin/true",), own_limits=own, **limits)  # type: ignore[arg-type]  # its numbers


@pytest.mark.parametrize(
    ("controllers", "unfit", "words"),
    [
        (("cpu", "memory", "pids"), [], []),
        (("memory",), ["own"], ["workflows.own takes no jobs: pids_max can't be kept"]),
        (
            (),
            ["own"],
            [
                "workflows.own takes no jobs: pids_max can't be kept",
                "runs continue without memory_max_mib and cpu_weight",
            ],
        ),
    ],
)
def test_a_limit_of_a_workflow_keeps_its_jobs_away_and_a_default_is_a_warning(
    controllers: tuple[str, ...], unfit: list[str], words: list[str]
) -> None:
    workflows = {
        "own": workflow("pids", pids_max=9),
        "default": workflow(memory_max_mib=1),
        "weighed": workflow("cpu", cpu_weight=50),
        "free": workflow(pids_max=DEFAULT_PIDS_MAX),
    }
    if controllers == ("memory",):
        del workflows["weighed"]

    machine = Machine(controllers=controllers)
    assert [*runnable_workflows.unfit(workflows, machine)] == unfit
    said = runnable_workflows.warnings(workflows, machine)
    assert len(said) == len(words)
    assert all(line.startswith(start) for line, start in zip(said, words, strict=True))
    assert all("systemd 254" in line for line in said)


def test_an_isolation_that_cannot_be_had_keeps_jobs_away() -> None:
    workflows = {
        "plain": workflow(),
        "boxed": evolve(workflow(), isolation=Isolation.BUBBLEWRAP),
    }
    machine = Machine(
        blocked_reason=lambda each: "no bwrap" if each is Isolation.BUBBLEWRAP else ""
    )

    why = 'isolation = "bubblewrap": no bwrap'
    assert runnable_workflows.unfit(workflows, machine) == {"boxed": why}
    assert runnable_workflows.warnings(workflows, machine) == [
        f"workflows.boxed takes no jobs: {why}"
    ]
