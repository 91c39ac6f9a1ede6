"""A past job's payload runs again on this machine alone: nobody is told, and nothing of the daemon is touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.protocol.job import Job
from support.cli import Done, dispatchd, dispatchd_process
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.records import NOW
from support.until import until

NOWHERE = "http://127.0.0.1:9"
PAYLOAD = '{"action": "opened", "number": 7.0}'
SHOW = 'echo "$GITHUB_REPOSITORY"; cat "$GITHUB_EVENT_PATH"; exit $CODE'


def command(config: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "dispatchd", "replay", "--config", str(config)),
        *words,
    ]


def replay(config: Path, *words: str) -> Done:
    done = dispatchd("replay", "--config", str(config), *words)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def put(config: Path, **fields: Any) -> None:
    """Leave a job in the history, with its texts."""
    job = Job(id="job-1", repository="acme/shop", claim_token="secret-claim", **fields)
    record = TrackedJob.received(job, now=NOW).advance(Event.ACCEPT_REFUSED, NOW)
    store, _ = JobStore.open(config.parent / "state")
    store.put(record)
    store.close()
    Runs.open(config.parent / "state").create("job-1", payload=PAYLOAD, headers="{}")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "replays" not in path.parts
    }


def replays(config: Path) -> list[str]:
    return sorted(each.name for each in (config.parent / "state" / "replays").iterdir())


def run_pid(folder: Path) -> str | None:
    """Return the pid of a process that works in a run's workspace, or None."""
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (each / "cwd").readlink() == folder / "workspace":
                return each.name
    return None


@pytest.fixture
def config(tmp_path: Path) -> Path:
    workflows = {
        "it": ["/bin/sh", "-c", SHOW.replace("$CODE", "0")],
        "fail": ["/bin/sh", "-c", SHOW.replace("$CODE", "3")],
        "wait": ["/bin/sh", "-c", "echo begun; exec sleep 600"],
    }
    return write_config(tmp_path, NOWHERE, workflows)


def test_it_runs_the_payload_again_and_leaves_the_store_alone(config: Path) -> None:
    put(config, workflow="it")
    before = contents(config.parent / "state")

    done = replay(config, "job-1")

    assert done.returncode == 0, done.stderr
    first, *output, last = done.stdout.splitlines()
    assert first.startswith(f"it in {config.parent}/state/replays/1-job-1/runs/job-1")
    assert output == ["acme/shop", PAYLOAD]
    assert last.startswith("succeeded")
    assert done.stderr == ""
    assert contents(config.parent / "state") == before


def test_its_outcome_is_its_exit_code(config: Path) -> None:
    put(config, workflow="fail")

    done = replay(config, "--json", "job-1")

    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["job"] == "job-1"
    assert said["outcome"] == "failed"
    assert said["cause"] == "exit-code"
    assert Path(said["output"]).read_text() == f"acme/shop\n{PAYLOAD}"


def test_another_workflow_can_have_the_payload(config: Path) -> None:
    put(config, workflow="gone-since")

    refused = replay(config, "job-1")
    done = replay(config, "job-1", "--workflow", "it")

    assert refused.returncode == os.EX_USAGE
    [line] = refused.stderr.splitlines()
    assert "no workflow 'gone-since'; --workflow takes one of: fail, it, wait" in line
    assert done.returncode == 0


def test_it_asks_nobody_for_a_token(config: Path) -> None:
    text = config.read_text()
    asks = '[workflows.asks]\ncommand = ["true"]\ngithub_token = { contents = "read" }'
    config.write_text(f"{text}\n{asks}\n")
    put(config, workflow="asks", extensions=("token",))

    done = replay(config, "job-1")

    assert done.returncode == 1
    assert "GH_TOKEN (nobody is asked for a token in a replay)" in done.stdout


def test_the_code_of_a_fork_gets_no_secrets_there_either(config: Path) -> None:
    text = config.read_text()
    asks = '[workflows.asks]\ncommand = ["env"]\nsecrets = { KEY = "key" }\nforks_without_isolation = true\n[secrets.key]\nfile = "secret"'
    config.write_text(f"{text}\n{asks}\n")
    put(config, workflow="asks", from_fork=True)

    done = replay(config, "job-1")

    assert done.returncode == 0, done.stderr
    assert "DISPATCHD_FROM_FORK=true" in done.stdout
    assert "\nKEY=" not in done.stdout


async def test_an_interrupted_one_ends_its_processes(config: Path) -> None:
    put(config, workflow="wait")
    folder = config.parent / "state" / "replays" / "1-job-1" / "runs" / "job-1"
    log = folder / "attempt-1" / "output.log"
    with subprocess.Popen(
        command(config, "--json", "job-1"), stdout=subprocess.PIPE, text=True
    ) as process:
        await until(lambda: log.exists() and log.read_text() == "begun\n")
        assert run_pid(folder) is not None
        process.send_signal(signal.SIGINT)
        out, _ = await to_thread.run_sync(process.communicate)

    said = json.loads(out)
    assert process.returncode == 130
    assert said["outcome"] == "aborted"
    assert said["summary"].startswith("Cancelled after")
    assert run_pid(folder) is None


def test_the_newest_ten_are_kept(config: Path) -> None:
    put(config, workflow="it")
    parent = config.parent / "state" / "replays"
    for number in range(1, 13):
        (parent / f"{number}-old").mkdir(parents=True)

    assert replay(config, "job-1").returncode == 0

    assert replays(config) == sorted(
        [*(f"{number}-old" for number in range(4, 13)), "13-job-1"]
    )


def test_what_cant_be_replayed_is_said_in_one_line(config: Path) -> None:
    put(config, command="cancel")
    cancel = replay(config, "job-1")
    put(config, workflow="it")
    shutil.rmtree(config.parent / "state" / "runs")
    gone = replay(config, "job-1")
    unknown = replay(config, "job-2")

    for done, reason in (
        (cancel, "it is a cancel job"),
        (gone, "its payload is not kept any more"),
        (unknown, "there is none"),
    ):
        assert done.returncode == os.EX_USAGE
        [line] = done.stderr.splitlines()
        assert reason in line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own what others made")
def test_it_gives_a_job_no_more_power_than_the_daemon_has(config: Path) -> None:
    put(config, workflow="it")
    os.chown(config.parent / "state", 12345, 12345)

    done = replay(config, "job-1")

    assert done.returncode == os.EX_USAGE
    [line] = done.stderr.splitlines()
    assert "sudo -u '#12345' dispatchd replay" in line


async def test_it_runs_beside_a_daemon_which_is_not_told(config: Path) -> None:
    async with endpoint() as hub:
        config.write_text(config.read_text().replace(NOWHERE, hub.url))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it", "payload": {"a": 1}})
            await hub.until_finished("job-1")
            await daemon.until_logged("job_finish_acknowledged")
            calls = [each.call for each in hub.requests if each.call != "pull"]

            here = ("replay", "--config", str(config), "job-1")
            done = await to_thread.run_sync(lambda: dispatchd_process(*here))

            assert done.returncode == 0
            assert '{"a": 1}' in done.stdout
            assert calls == [each.call for each in hub.requests if each.call != "pull"]
