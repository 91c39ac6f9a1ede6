"""What commands can do to their supervisor: each ends with the right outcome, cause and summary."""

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.daemon_process import resident_kib
from support.daemon_process import running_daemon as daemon_process
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.until import in_time, until

Json = dict[str, Any]
LEASE_S = 60


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def outcome_of(
    tmp_path: Path, command: list[str], *, limits: str = "", runs: str = ""
) -> tuple[Json, Json]:
    """Return how a job with a command was finished at the endpoint, and its record."""
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": command}, limits=limits, runs=runs
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            finished = (await hub.until_finished("j"))[0]
            line = await daemon.until_logged("job_finish_acknowledged")
    return finished, line


@pytest.mark.parametrize(
    ("script", "status", "cause", "words"),
    [
        ("exit 0", "succeeded", None, r"Succeeded after"),
        ("exit 3", "failed", "exit-code", r"exit code 3"),
        ("kill -SEGV $$", "failed", "signal", r"SIGSEGV"),
        ("no-such-program-here", "failed", "exit-code", r"127.*command not found"),
        # The end of a job is the end of its leader, not of the last holder of its stdout.
        ("sleep 300 & exit 0", "succeeded", None, r"1 of its processes"),
        (
            "(trap '' TERM; sleep 300) & sleep 0.2; exit 4",
            "failed",
            "exit-code",
            r"exit code 4.*[12] of its processes",
        ),
    ],
)
async def test_a_command_ends(
    tmp_path: Path, script: str, status: str, cause: str | None, words: str
) -> None:
    finished, line = await outcome_of(tmp_path, sh(script))

    assert (finished["result_status"], line["cause"]) == (status, cause)
    assert re.search(words, finished["result_summary"])


async def test_a_command_that_ignores_sigterm_is_killed_at_its_time_limit(
    tmp_path: Path,
) -> None:
    limits = "max_duration_s = 300\nkill_grace_s = 30"
    script = "trap '' TERM; echo deaf; while :; do sleep 1; done"
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": sh(script)}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            output = daemon.state / "runs/j/attempt-1/output.log"
            await until(lambda: output.read_text() == "deaf\n")
            await advance(300)
            await daemon.until_logged("job_stop_ordered")
            # Time passes by itself, too, and much of it on a busy machine.
            await advance(15)
            assert hub.finished == {}
            await advance(15)
            [finished] = await hub.until_finished("j")
            line = await daemon.until_logged("job_finish_acknowledged")

    assert (finished["result_status"], line["cause"]) == ("failed", "max-duration")
    assert "SIGKILL" in finished["result_summary"]


async def test_a_command_that_is_cancelled_gets_sigterm_and_may_clean_up(
    tmp_path: Path,
) -> None:
    limits = "kill_grace_s = 3600"
    script = "trap 'echo cleaned; exit 5' TERM; echo up; while :; do sleep 0.1; done"
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": sh(script)}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            output = daemon.state / "runs/j/attempt-1/output.log"
            await until(lambda: output.exists() and output.read_text() == "up\n")
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            [finished] = await hub.until_finished("j")

    assert finished["result_status"] == "aborted"
    assert finished["result_output"].endswith("cleaned\n")
    assert "SIGKILL" not in finished["result_summary"]


@pytest.mark.parametrize("mode", [None, 0o600])
async def test_a_program_that_cannot_be_executed_fails_its_job_alone(
    tmp_path: Path, mode: int | None
) -> None:
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    if mode is not None:
        program.write_text("#!/bin/sh\n")
        program.chmod(mode)

    finished, line = await outcome_of(tmp_path / "machine", [str(program)])

    assert (finished["result_status"], line["cause"]) == ("failed", "spawn")
    assert str(program) in finished["result_summary"]


async def test_an_empty_program_has_not_succeeded(tmp_path: Path) -> None:
    """Seen: what a full disk left of a script, 0 bytes, was run by the shell and succeeded."""
    program = tmp_path / "tool"
    program.touch(0o700)

    finished, line = await outcome_of(tmp_path / "machine", [str(program)])

    assert (finished["result_status"], line["cause"]) == ("failed", "spawn")
    assert "it is empty" in finished["result_summary"]


async def test_a_program_for_another_machine_is_no_script(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(60) + b"\nexit 0\n")
    program.chmod(0o700)

    finished, _ = await outcome_of(
        tmp_path / "machine", [str(program)], limits='report_log = "full"'
    )

    assert finished["result_status"] == "failed"
    assert "exit code 126" in finished["result_summary"]
    assert "Exec format error" in finished["result_output"]


async def test_200_mb_of_output_go_to_the_log_and_not_through_the_daemon(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"loud": sh("head -c 200000000 /dev/zero | tr '\\0' x")}
        )
        async with daemon_process(config) as daemon:
            before = resident_kib(daemon)
            hub.hand_out({"id": "j", "dag_name": "loud"})
            finished = (await hub.until_finished("j"))[0]
            after = resident_kib(daemon)

    assert finished["result_status"] == "succeeded"
    assert (daemon.state / "runs/j/attempt-1/output.log").stat().st_size == 200_000_000
    # The first job brings in code that was not used before; 200 MB would be seen at once.
    assert after - before < 8 * 1024


async def test_a_lost_process_is_reported(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": sh("sleep 300")})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            pid = await started_pid(daemon, hub)
            os.killpg(pid, signal.SIGKILL)
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "failed"
    assert "lost" in finished["result_summary"]


async def test_a_run_whose_files_are_lost_is_not_started_again(tmp_path: Path) -> None:
    """Seen: a file system remounted itself read-only; after its repair the run of before was started again."""
    counted = tmp_path / "counted"
    async with endpoint() as hub:
        command = sh(f"echo >> {counted}; exec sleep 300")
        config = write_config(tmp_path, hub.url, {"it": command})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(counted.exists)
            record = (daemon.state / "jobs/j.json").read_text()
        [pid] = re.findall(r'"pid": (\d+)', record)
        os.killpg(int(pid), signal.SIGKILL)
        (daemon.state / "runs/j/attempt-1/started").unlink()
        async with running_daemon(config):
            [finish] = await hub.until_finished("j")

    assert finish["result_cause"] == "lost"
    assert counted.read_text() == "\n"


async def test_a_failure_of_the_surroundings_is_tried_again_within_its_budget(
    tmp_path: Path,
) -> None:
    script = 'if [ "$DISPATCHD_ATTEMPT" = 1 ]; then kill -KILL $$; fi; echo second'

    finished, line = await outcome_of(
        tmp_path, sh(script), limits="max_retries = 1", runs="retry_wait_s = 0.1"
    )

    assert finished["result_status"] == "succeeded"
    assert line["attempt"] == 2


async def test_the_environment_is_built_and_not_inherited(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": sh("env")},
            limits='env = { MINE = "1", CI = "no" }',
        )
        async with running_daemon(config, env={"SECRET_OF_THE_DAEMON": "x"}) as daemon:
            hub.hand_out(
                {
                    "id": "j",
                    "dag_name": "it",
                    "ref": "refs/heads/main",
                    "payload": {"a": 1},
                }
            )
            await hub.until_finished("j")
    output = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    environment = dict(line.split("=", 1) for line in output.splitlines())

    assert "SECRET_OF_THE_DAEMON" not in environment
    assert environment["MINE"] == "1"
    assert environment["CI"] == "true"
    assert environment["GITHUB_REF_NAME"] == "main"
    assert environment["WEBHOOK_PAYLOAD"] == '{"a": 1}'
    assert "GITHUB_ACTIONS" not in environment
    expected: Mapping[str, str] = {
        "DISPATCHD_RUN_ID": "j",
        "DISPATCHD_ATTEMPT": "1",
        "GITHUB_RUN_ID": "j",
    }
    assert expected.items() <= environment.items()


async def test_a_cancel_job_ends_the_run_that_it_names(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"long": sh("sleep 300")})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "long"})
            pid = await started_pid(daemon, hub)
            hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
            target, cancel = await hub.until_finished("j", "c")

    assert (target["result_status"], cancel["result_status"]) == (
        "aborted",
        "succeeded",
    )
    assert not Path(f"/proc/{pid}").exists()


async def test_a_cancel_job_finds_its_target_by_what_it_is_for(tmp_path: Path) -> None:
    purpose = {"dag_name": "long", "repository_name": "o/r", "pull_request_number": 7}
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"long": sh("sleep 300")}, runs="slots = 2"
        )
        async with running_daemon(config):
            hub.hand_out({"id": "j", **purpose})
            hub.hand_out({"id": "other", **purpose, "pull_request_number": 8})
            await hub.until(lambda e: len(e.accepted) == 2)
            hub.hand_out({"id": "c", "command": "cancel", **purpose})
            target, cancel = await hub.until_finished("j", "c")
            assert "other" not in hub.finished
            hub.hand_out({"id": "c2", "command": "cancel", "dag_run_id": "other"})
            await hub.until_finished("other")

    assert (target["result_status"], cancel["result_status"]) == (
        "aborted",
        "succeeded",
    )


async def test_a_cancel_job_without_a_target_fails_with_the_reason(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": sh("exit 0")})
        async with running_daemon(config):
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")
            hub.hand_out({"id": "c1", "command": "cancel", "dag_run_id": "nobody"})
            hub.hand_out({"id": "c2", "command": "cancel", "dag_run_id": "j"})
            unknown, ended = await hub.until_finished("c1", "c2")

    assert [unknown["result_status"], ended["result_status"]] == ["failed", "failed"]
    assert "no run nobody" in unknown["result_summary"]
    assert "already ended" in ended["result_summary"]


async def test_a_cancel_job_cancels_no_cancel_job_and_not_itself(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config):
            hub.hand_out({"id": "c1", "command": "cancel", "dag_run_id": "c1"})
            [itself] = await hub.until_finished("c1")
            hub.hand_out({"id": "c2", "command": "cancel", "dag_run_id": "c1"})
            _, another = await hub.until_finished("c1", "c2")

    assert [itself["result_status"], another["result_status"]] == ["failed", "failed"]
    assert "no run c1" in itself["result_summary"]
    assert "no run c1" in another["result_summary"]


async def test_a_cancel_job_whose_target_was_cancelled_before_has_succeeded(
    tmp_path: Path,
) -> None:
    purpose = {"dag_name": "long", "repository_name": "o/r", "pull_request_number": 7}

    def script(request: Request) -> Answer | None:
        held_back = request.call == "finish" and request.job_id == "j"
        return as_json({"message": "later"}, 503) if held_back else None

    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"long": sh("sleep 300")})
        async with running_daemon(config) as daemon:
            hub.script = script
            hub.hand_out({"id": "j", **purpose})
            await daemon.until_logged("job_attempt_started")
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            await daemon.until_logged("job_decided", job_id="j")
            hub.hand_out({"id": "c1", "command": "cancel", "dag_run_id": "j"})
            hub.hand_out({"id": "c2", "command": "cancel", **purpose})
            tracked = await hub.until_finished("c1", "c2")
            hub.script = None
            await in_time(lambda: "j" in hub.finished)
            await daemon.until_logged("job_finish_acknowledged", job_id="j")
            hub.hand_out({"id": "c3", "command": "cancel", "dag_run_id": "j"})
            past = await hub.until_finished("c3")

    assert {each["result_status"] for each in [*tracked, *past]} == {"succeeded"}


async def test_a_cancel_ends_a_run_for_good_that_its_time_limit_was_ending(
    tmp_path: Path,
) -> None:
    ignores = sh("trap '' TERM; echo up; while :; do sleep 0.1; done")
    limits = "max_duration_s = 60\nkill_grace_s = 30\nmax_retries = 3"
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ignores}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            await advance(60)
            await daemon.until_logged("job_stop_ordered")
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            await advance(30)
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_cause"] == "cancelled"


async def test_a_heartbeat_brings_the_wish_to_cancel(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"long": sh("sleep 300")})
        async with running_daemon(config) as daemon:
            hub.hand_out(
                {
                    "id": "j",
                    "dag_name": "long",
                    "claim_token": "tok",
                    "lease_seconds": LEASE_S,
                    "extensions": ["heartbeat"],
                }
            )
            await started_pid(daemon, hub)
            hub.cancelled.add("j")
            await until(lambda: has_beaten(hub))
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "aborted"
    assert finished["claim_token"] == "tok"
    assert {beat.body["claim_token"] for beat in hub.calls("heartbeat")} == {"tok"}
    assert "tok" not in daemon.log_file.read_text()


async def has_beaten(hub: Endpoint) -> bool:
    """Let a second pass; return whether there was a heartbeat by then."""
    await advance(1)
    return bool(hub.calls("heartbeat"))


async def started_pid(daemon: DaemonHere, hub: Endpoint) -> int:
    await hub.until(lambda e: "j" in e.accepted)
    started = daemon.state / "runs/j/attempt-1/started"
    record = daemon.state / "jobs/j.json"
    await until(started.exists)
    found = re.search(r'"pid": (\d+)', record.read_text())
    assert found
    return int(found[1])
