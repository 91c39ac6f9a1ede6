"""Parking: by the run, by an operator, and how a person ends it, on real processes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from support.cli import Done, command
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.until import until

ASKS = """
if [ "$DISPATCHD_ATTEMPT" = 1 ]; then
  echo '{"type": "block", "reason": "Which of the two?"}' >>"$DISPATCHD_EVENTS"
fi
echo "attempt $DISPATCHD_ATTEMPT"
"""


@define
class Machine:
    daemon: DaemonHere
    hub: Endpoint

    async def command(self, *words: str) -> Done:
        """Run a `dispatchd` command on this machine's configuration."""
        return await command(*words, "--config", str(self.daemon.config))

    async def until_phase(self, job_id: str, phase: str) -> dict[str, Any]:
        path = self.daemon.state / "jobs" / f"{job_id}.json"

        def reached() -> dict[str, Any] | None:
            found: dict[str, Any] = (
                json.loads(path.read_text()) if path.exists() else {}
            )
            return found if found.get("phase") == phase else None

        return await until(reached) or {}


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with endpoint() as hub:
        workflows = {
            "asks": ["/bin/sh", "-c", ASKS],
            "waits": ["/bin/sh", "-c", "sleep 300"],
            "quick": ["/bin/sh", "-c", "echo done"],
        }
        config = write_config(tmp_path / "machine", hub.url, workflows)
        async with running_daemon(config) as daemon:
            yield Machine(daemon, hub)


JOB = {
    "id": "j",
    "claim_token": "claim-of-the-job",
    "lease_seconds": 1,
    "extensions": ["heartbeat"],
}


async def test_a_run_parks_itself_and_a_person_has_it_tried_again(
    machine: Machine,
) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    parked = await machine.until_phase("j", "needs_attention")

    told = await machine.command("resolve", "j", "--retry")
    finished = (await machine.hub.until_finished("j"))[0]

    assert parked["blocked"] == "Waits for a person: Which of the two?"
    assert told.stdout.split()[0] == "j"
    assert finished["result_status"] == "succeeded"
    assert [each.job_id for each in machine.hub.calls("accept")] == ["j", "j"]
    output = machine.daemon.state / "runs/j/attempt-2/output.log"
    assert output.read_text() == "attempt 2\n"


async def test_a_parked_job_that_cannot_be_tried_again_ends_as_it_was(
    machine: Machine,
) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")
    config = machine.daemon.config
    config.write_text(config.read_text().replace('"asks"', '"inquires"'))
    await machine.command("reload")

    retried = await machine.command("resolve", "j", "--retry")

    [finish] = await machine.hub.until_finished("j")
    assert retried.returncode == 0
    assert (finish["result_status"], finish["result_cause"]) == (
        "failed",
        "needs-input",
    )
    assert "Which of the two?" in finish["result_summary"]
    assert "no workflow called 'asks'" in finish["result_summary"]
    assert "attempt 1" in finish["result_output"]


async def test_a_parked_job_holds_no_slot_and_comes_first_and_its_lease_is_told(
    machine: Machine,
) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")

    machine.hub.hand_out({"id": "next", "dag_name": "quick"})
    await machine.hub.until_finished("next")
    machine.hub.hand_out({"id": "later", "dag_name": "waits"})
    await machine.until_phase("later", "running")
    listed = await machine.command("jobs")
    await machine.hub.until(
        lambda hub: any(beat.body.get("reason") for beat in hub.calls("heartbeat", "j"))
    )

    await machine.command("cancel", "later")
    await machine.hub.until_finished("later")

    assert listed.stdout.splitlines()[1].startswith("j ")
    assert "Which of the two?" in listed.stdout
    beats = [each.body for each in machine.hub.calls("heartbeat", "j")]
    assert beats[-1]["phase"] == "needs_attention"
    assert "Which of the two?" in beats[-1]["reason"]


@pytest.mark.parametrize(
    ("option", "status", "cause"),
    [("--succeed", "succeeded", None), ("--fail", "failed", "needs-input")],
)
async def test_a_person_ends_a_parked_job(
    machine: Machine, option: str, status: str, cause: str | None
) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")

    await machine.command("resolve", "j", option, "--note", "The first one is it.")
    finished = (await machine.hub.until_finished("j"))[0]

    assert (finished["result_status"], finished.get("result_cause")) == (status, cause)
    assert "The first one is it." in finished["result_summary"]
    assert "by an operator" in finished["result_summary"]


async def test_an_operator_parks_a_run_which_is_ended_first(machine: Machine) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "waits"})
    running = await machine.until_phase("j", "running")
    await machine.daemon.until_logged("job_attempt_started", job_id="j")

    told = await machine.command("block", "j", "--reason", "The branch is frozen.")
    parked = await machine.until_phase("j", "needs_attention")

    assert told.returncode == 0, told.stderr
    assert "The branch is frozen." in parked["blocked"]
    assert parked["attempts"][0]["cause"] == "needs-input"
    pid = parked["attempts"][0]["process"]["pid"]
    assert running["phase"] == "running"
    assert not Path(f"/proc/{pid}").exists()


async def test_an_operator_cancels_a_job(machine: Machine) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "waits"})
    await machine.daemon.until_logged("job_attempt_started", job_id="j")

    await machine.command("cancel", "j", "--reason", "Not needed.")
    finished = (await machine.hub.until_finished("j"))[0]

    assert finished["result_status"] == "aborted"


async def test_a_parked_job_survives_a_kill_of_the_daemon(machine: Machine) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    before = await machine.until_phase("j", "needs_attention")

    await machine.daemon.crash()
    machine.daemon.start()
    await machine.daemon.until_logged("daemon_ready", tracked_jobs=1)
    after = await machine.until_phase("j", "needs_attention")

    assert after == before


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("block", "j", "--reason", "  "), 64, "blank"),
        (("block", "nobody", "--reason", "x"), 64, "there is none"),
        (("block", "j", "--reason", "x"), 64, "it is needs_attention"),
        (("resolve", "j"), 64, "--retry, --fail, --succeed"),
        (("cancel", "nobody"), 64, "there is none"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(
    machine: Machine, words: tuple[str, ...], code: int, complaint: str
) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")

    told = await machine.command(*words)

    assert told.returncode == code
    assert len(told.stderr.splitlines()) == 1
    assert complaint in told.stderr


async def test_without_a_daemon_a_person_is_told_to_start_it(machine: Machine) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")
    await machine.daemon.crash()

    told = await machine.command("resolve", "j", "--retry")

    assert told.returncode == 69
    assert "no daemon is running" in told.stderr
    machine.daemon.start()
    await machine.daemon.until_logged("daemon_ready")


async def test_claim_tokens_show_nowhere(machine: Machine) -> None:
    machine.hub.hand_out({**JOB, "dag_name": "asks"})
    await machine.until_phase("j", "needs_attention")

    said = [
        await machine.command(*words)
        for words in (
            ("show", "j"),
            ("show", "j", "--json"),
            ("jobs",),
            ("jobs", "--json"),
            ("status",),
            ("resolve", "j", "--succeed", "--json"),
        )
    ]
    await machine.hub.until_finished("j")

    for each in said:
        assert "claim-of-the-job" not in each.stdout + each.stderr
    assert "claim-of-the-job" not in machine.daemon.log_file.read_text()
    # Below its state, the store alone keeps them; no name of a file does.
    assert "claim-of-the-job" not in "".join(map(str, machine.daemon.written()))
