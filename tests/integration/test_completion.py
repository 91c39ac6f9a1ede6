"""What a shell offers after `dispatchd`: commands, options and job ids, with and without a daemon."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.store.jobs import JobStore
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from support.cli import Done, command, dispatchd, dispatchd_process
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.records import NOW

NOWHERE = "http://127.0.0.1:9"
WELL = Verdict(outcome=Outcome.SUCCEEDED, summary="")


def asked(config: Path, line: str) -> dict[str, str]:
    """Return the variables by which bash asks what to offer in place of the last word of a line."""
    return {
        "_DISPATCHD_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "DISPATCHD_CONFIG": str(config),
    }


def words_of(done: Done) -> list[str]:
    """Return what is offered, from an answer without complaints."""
    assert done.stderr == ""
    return [each.partition(",")[2] for each in done.stdout.split()]


def offered(config: Path, line: str) -> list[str]:
    """Return what is offered in place of the last word of a line."""
    return words_of(dispatchd(env=asked(config, line)))


def put(config: Path, *ids: str, past: bool = False) -> None:
    store, _ = JobStore.open(config.parent / "state")
    for job_id in ids:
        record = TrackedJob.received(Job(id=job_id, workflow="it"), now=NOW)
        if past:
            record = record.advance(Event.REJECTED, NOW, verdict=WELL)
            record = record.advance(Event.FINISH_ACKNOWLEDGED, NOW)
        store.put(record)
    store.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})


def test_commands_are_offered(config: Path) -> None:
    assert offered(config, "dispatchd re") == ["resolve", "replay", "resume", "reload"]
    assert offered(config, "dispatchd hub se") == ["serve"]
    assert "--follow" in offered(config, "dispatchd logs --f")


def test_the_ids_of_jobs_are_offered_to_the_commands_that_can_use_them(
    config: Path,
) -> None:
    put(config, "job-1", "job-2", "other")
    put(config, "job-past", past=True)

    assert offered(config, "dispatchd show job") == ["job-1", "job-2", "job-past"]
    assert offered(config, "dispatchd cancel job") == ["job-1", "job-2"]
    assert offered(config, "dispatchd replay job") == ["job-past"]


def test_an_id_that_a_shell_would_not_take_as_it_is_is_not_offered(
    config: Path,
) -> None:
    put(config, "job-$(touch x)", "job-;true", "job 3", "-job", "job-1")

    assert offered(config, "dispatchd show ") == ["job-1"]


async def test_a_running_daemon_is_asked(config: Path) -> None:
    put(config, "job-past", past=True)
    async with endpoint() as hub:
        config.write_text(config.read_text().replace(NOWHERE, hub.url))
        async with running_daemon(config):
            found = await command(env=asked(config, "dispatchd show j"))
            none = await command(env=asked(config, "dispatchd cancel j"))

    assert (words_of(found), words_of(none)) == (["job-past"], [])


def test_trouble_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "config.toml"
    broken.write_text("[[[")

    assert offered(broken, "dispatchd show j") == []
    # A traceback at exit would show in a process of its own.
    done = dispatchd_process(env=asked(broken, "dispatchd show j"))
    assert (done.returncode, words_of(done)) == (0, [])
    assert offered(tmp_path / "none.toml", "dispatchd show j") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_program(shell: str) -> None:
    done = dispatchd("completion", shell, env={"PATH": "/nonexistent"})

    assert done.returncode == 0
    assert f"_DISPATCHD_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_it(config: Path) -> None:
    put(config, "job-1")
    (config.parent / "dispatchd").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m dispatchd "$@"\n'
    )
    (config.parent / "dispatchd").chmod(0o755)
    script = """
        eval "$(dispatchd completion bash)"
        COMP_WORDS=(dispatchd show j) COMP_CWORD=2
        $(complete -p dispatchd | sed 's/.*-F \\([^ ]*\\).*/\\1/') dispatchd j show
        echo "offered: ${COMPREPLY[*]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{config.parent}:{os.environ['PATH']}",
            "DISPATCHD_CONFIG": str(config),
        },
    )

    assert done.stdout.splitlines()[-1] == "offered: job-1", done.stderr


def test_an_unknown_shell_is_refused_in_one_line() -> None:
    done = dispatchd("completion", "csh")

    assert done.returncode == os.EX_USAGE
    [line] = done.stderr.splitlines()
    assert "bash" in line
