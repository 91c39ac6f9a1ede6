"""Secrets reach the command that needs them, are read anew for each run, and show nowhere else."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.clock import within
from support.daemon import DaemonHere, running_daemon, tasks_named, write_config
from support.endpoint import Endpoint, endpoint
from support.until import until

VALUE = "correct-horse-battery-staple"


def configure(tmp_path: Path, url: str, source: str, script: str, **more: str) -> Path:
    file = write_config(tmp_path / "machine", url, {}, runs="slots = 4")
    options = "\n".join(f"{name} = {value}" for name, value in more.items())
    file.write_text(
        file.read_text()
        + f"""
[secrets.key]
{source}
[workflows.it]
command = ["/bin/sh", "-c", {json.dumps(script)}]
secrets = {{ KEY = "key" }}
{options}
[workflows.other]
command = ["/bin/sh", "-c", "env"]
"""
    )
    return file


async def run(hub: Endpoint, job_id: str, workflow: str = "it") -> dict[str, Any]:
    hub.hand_out({"id": job_id, "dag_name": workflow})
    return (await hub.until_finished(job_id))[0]


def output(daemon: DaemonHere, job_id: str, number: int = 1) -> str:
    return (
        daemon.state / "runs" / job_id / f"attempt-{number}" / "output.log"
    ).read_text()


@pytest.mark.parametrize("kind", ["file", "credential", "env", "command"])
async def test_a_secret_comes_from_its_source_into_its_command_alone(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "key").write_text(VALUE + "\n")
    source = {
        "file": f'file = "{tmp_path}/key"',
        "credential": 'credential = "key"',
        "env": 'env = "KEY_OF_THE_DAEMON"',
        "command": f'command = ["cat", "{tmp_path}/key"]',
    }[kind]
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path), "KEY_OF_THE_DAEMON": VALUE}
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, source, 'echo "it is $KEY"')
        async with running_daemon(config, env=env) as daemon:
            finished = await run(hub, "j")
            await run(hub, "o", "other")

    assert output(daemon, "j") == f"it is {VALUE}\n"
    assert finished["result_output"] == "it is [redacted]\n"
    assert VALUE not in output(daemon, "o")
    # The command's own output is its owner's; nothing that we write has the secret.
    for path, data in daemon.written().items():
        assert path.name == "output.log" or VALUE.encode() not in data, path


async def test_a_rotated_secret_is_used_without_a_restart(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first-value-of-it")
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, f'file = "{key}"', 'echo "$KEY"')
        async with running_daemon(config) as daemon:
            await run(hub, "j1")
            key.write_text("second-value-of-it")
            await run(hub, "j2")

    assert output(daemon, "j1") == "first-value-of-it\n"
    assert output(daemon, "j2") == "second-value-of-it\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('file = "/no/such/file"', "No such file or directory"),
        ('credential = "key"', "no 'CREDENTIALS_DIRECTORY'"),
        ('env = "NO_SUCH_VARIABLE"', "no 'NO_SUCH_VARIABLE'"),
        ('command = ["/bin/sh", "-c", "exit 7"]', "exit code 7"),
        ('command = ["/no/such/program"]', "No such file or directory"),
        ('command = ["printf", "a\\\\000b"]', "NUL character"),
        ('command = ["true"]', "it is empty"),
        ('command = ["yes"]', "larger than 64 KiB"),
        ('command = ["printf", "\\\\377\\\\376"]', "isn't UTF-8"),
    ],
)
async def test_a_secret_that_cannot_be_had_is_named_and_tried_again(
    tmp_path: Path, source: str, reason: str
) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, source, "echo ran", start_retries="1")
        config.write_text(
            config.read_text().replace("slots = 4", "slots = 4\nretry_wait_s = 0.1")
        )
        async with running_daemon(config) as daemon:
            finished = await run(hub, "j")

    assert (finished["result_status"], finished["result_cause"]) == ("failed", "spawn")
    assert "cannot get the secret key" in finished["result_summary"]
    assert reason in finished["result_summary"]
    assert finished["result_summary"].endswith("It was tried 2 times.")
    assert not (daemon.state / "runs/j/attempt-1/output.log").exists()


async def test_a_secret_is_what_its_command_prints_until_it_ends(
    tmp_path: Path,
) -> None:
    """Its child keeps the pipe open."""
    child = tmp_path / "child"
    script = f"sleep 300 & echo $! >{child}; echo the-secret-value"
    command = f'command = ["sh", "-c", "{script}"]'
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, command, "echo $KEY")
        async with running_daemon(config) as daemon:
            with within(20):
                finished = await run(hub, "j")
    os.kill(int(child.read_text()), signal.SIGKILL)

    assert finished["result_status"] == "succeeded"
    assert output(daemon, "j") == "the-secret-value\n"


async def test_after_a_restart_the_old_value_of_a_running_command_is_still_kept_out(
    tmp_path: Path,
) -> None:
    key, gate = tmp_path / "key", tmp_path / "gate"
    key.write_text("first-value-of-it")
    os.mkfifo(gate)
    script = f'echo "$KEY"; read -r _ <{gate}; echo "$KEY"'
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, f'file = "{key}"', script)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await daemon.crash()
            key.write_text("second-value-of-it")
            daemon.log_file.unlink()
            daemon.start()
            # It has read the command's environment before it follows it.
            await until(lambda: tasks_named("watchdog j"))
            gate.write_text("go\n")
            finished = (await hub.until_finished("j"))[0]

    assert output(daemon, "j") == "first-value-of-it\n" * 2
    assert finished["result_output"] == "[redacted]\n" * 2


@pytest.mark.parametrize("still_configured", [True, False])
async def test_words_of_a_command_that_ended_unwatched_are_withheld(
    tmp_path: Path, *, still_configured: bool
) -> None:
    key, gate = tmp_path / "key", tmp_path / "gate"
    key.write_text("first-value-of-it")
    os.mkfifo(gate)
    script = f'echo "$KEY"; read -r _ <{gate}'
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, f'file = "{key}"', script)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await daemon.crash()
            key.write_text("second-value-of-it")
            gate.write_text("go\n")
            exit_file = daemon.state / "runs/j/attempt-1/exit"
            await until(exit_file.exists)
            if not still_configured:
                given = 'secrets = { KEY = "key" }'
                config.write_text(config.read_text().replace(given, ""))
            daemon.log_file.unlink()
            daemon.start()
            finished = (await hub.until_finished("j"))[0]
            await daemon.until_logged("daemon_ready")

    assert finished["result_status"] == "succeeded"
    assert "withheld" in finished["result_output"]
    assert "first-value" not in str(finished)


async def test_files_that_an_unwatched_command_has_named_are_withheld(
    tmp_path: Path,
) -> None:
    key, gate = tmp_path / "key", tmp_path / "gate"
    key.write_text("first-value-of-it")
    os.mkfifo(gate)
    result = (
        '{"contract_version": "1", "status": "success", "summary": "Done.", '
        '"exit_reason": "done", "artifacts": ["out/first-value-of-it.html"]}'
    )
    script = f"printf %s '{result}' >\"$DISPATCHD_RESULT\"; touch {tmp_path}/done; read -r _ <{gate}"
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, f'file = "{key}"', script)
        given = 'secrets = { KEY = "key" }'
        headless = f'{given}\ncontract = "headless"\nrequired_artifacts = ["made.txt"]'
        config.write_text(config.read_text().replace(given, headless))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="j")
            await until((tmp_path / "done").exists)
            await daemon.crash()
            gate.write_text("go\n")
            await until((daemon.state / "runs/j/attempt-1/exit").exists)
            daemon.start()
            await daemon.until_logged("job_parked")
            record = (daemon.state / "jobs" / "j.json").read_text()

    assert "made.txt" in record
    assert "first-value" not in record


async def test_a_summary_and_events_are_scrubbed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE)
    result = (
        '{"contract_version": "1", "status": "success", '
        '"summary": "It is %s.", "exit_reason": "done"}'
    )
    event = '{"type": "follow_up", "text": "Rotate %s."}'
    script = (
        f'printf \'{result}\' "$KEY" >"$DISPATCHD_RESULT"; '
        f'printf \'{event}\\n\' "$KEY" >>"$DISPATCHD_EVENTS"'
    )
    async with endpoint() as hub:
        config = configure(
            tmp_path,
            hub.url,
            f'file = "{tmp_path}/key"',
            script,
            contract='"headless"',
        )
        async with running_daemon(config) as daemon:
            finished = await run(hub, "j")

    assert finished["result_summary"] == (
        "It is [redacted]. Left to do: Rotate [redacted].."
    )
    assert VALUE not in daemon.log_file.read_text()


async def test_the_daemon_started_with_a_secret_hands_it_on_to_nobody(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, 'env = "KEY_OF_THE_DAEMON"', "env")
        async with running_daemon(config, env={"KEY_OF_THE_DAEMON": VALUE}) as daemon:
            await run(hub, "j")
            seen = [
                path.read_bytes()
                for path in Path("/proc").glob("[0-9]*/cmdline")
                if str(os.getpid()) not in str(path) and path.exists()
            ]

    environment = dict(
        line.split("=", 1) for line in output(daemon, "j").splitlines() if "=" in line
    )
    assert "KEY_OF_THE_DAEMON" not in environment
    assert environment["KEY"] == VALUE
    assert not any(VALUE.encode() in each for each in seen)
