"""Every row of the exit table, in both contracts, by a real process under a real daemon."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import define

from dispatchd.agent.domain.exit_table import TABLE, Contract, Ending, Then
from dispatchd.protocol.contracts import check
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.until import until

RESULT = {
    "contract_version": "1",
    "status": "success",
    "summary": "As told.",
    "exit_reason": "completed",
}

FILES: Final[Mapping[str, bytes | None]] = {
    "absent": None,
    "success": json.dumps(RESULT).encode(),
    "minor": json.dumps({**RESULT, "contract_version": "1.9", "new": 1}).encode(),
    "not_json": b"{",
    "not_a_result": json.dumps({**RESULT, "status": "fine"}).encode(),
    "wrong_version": json.dumps({**RESULT, "contract_version": "2.0"}).encode(),
    "too_large": json.dumps({**RESULT, "body": "x" * (1 << 20)}).encode(),
    "not_utf8": json.dumps(RESULT).encode().replace(b"told", b"t\xf8ld"),
}
"""What the command leaves as its result."""

VALID = ("success", "minor")

CODES: Final[Mapping[int, Ending]] = {
    1: Ending.EXIT_1,
    2: Ending.EXIT_2,
    3: Ending.EXIT_3,
    4: Ending.OTHER_EXIT,
    255: Ending.OTHER_EXIT,
}

WORDS: Final[Mapping[str, str]] = {
    "absent": "it wrote none",
    "not_json": "it isn't JSON",
    "not_a_result": "$.status must be one of",
    "wrong_version": "contract_version '2.0' and this machine knows 1",
    "too_large": "larger than 1 MiB",
    "not_utf8": "isn't UTF-8",
}


def of_exit_0(file: str, contract: Contract) -> Ending:
    if contract is Contract.PLAIN:
        return Ending.EXIT_0
    return Ending.SUCCESS if file in VALID else Ending.NO_RESULT


Case = tuple[Contract, str, str, Ending]

_OF_EXIT_0: Final[list[Case]] = [
    (contract, "exit 0", file, of_exit_0(file, contract))
    for contract in Contract
    for file in FILES
]


def _of_others(files: Iterable[str]) -> list[Case]:
    """Return the cases of what is no success: then a file says only what was done."""
    ends = {f"exit {code}": ending for code, ending in CODES.items()}
    ends["kill -KILL $$"] = Ending.SIGNAL
    return [
        (contract, last, file, ending)
        for contract in Contract
        for last, ending in ends.items()
        for file in files
    ]


FEW: Final[list[Case]] = [*_OF_EXIT_0, *_of_others(["absent", "success"])]
CASES: Final[list[Case]] = [*_OF_EXIT_0, *_of_others(FILES)]

# The shim is the shell's parent; without it nobody writes the exit code down.
LOST = "kill -KILL $PPID; sleep 60"
BLOCK = """echo '{"type": "block", "reason": "Which one?"}' >>"$DISPATCHD_EVENTS"; """


def status(word: str) -> str:
    document = json.dumps({**RESULT, "status": word})
    return f"echo '{document}' >\"$DISPATCHD_RESULT\""


OTHERS: Final[list[Case]] = [
    *[
        each
        for contract in Contract
        for each in (
            (contract, "steps", BLOCK + "exit 0", Ending.BLOCKED),
            (contract, "steps", BLOCK + "exit 1", Ending.BLOCKED),
            (contract, "steps", LOST, Ending.LOST),
            (contract, "short", "sleep 60", Ending.MAX_DURATION),
            (contract, "silent", "sleep 60", Ending.INACTIVITY),
            (contract, "steps", "sleep 60", Ending.CANCELLED),
            (contract, "no_program", "", Ending.SPAWN),
            (contract, "no_secret", "", Ending.SECRET),
            (contract, "no_repository", "", Ending.WORKSPACE),
        )
    ],
    (Contract.PLAIN, "parks", "exit 0", Ending.MISSING_PARK),
    (Contract.PLAIN, "fails", "exit 0", Ending.MISSING_FAIL),
    (Contract.HEADLESS, "parks", status("success"), Ending.MISSING_PARK),
    (Contract.HEADLESS, "parks", status("partial"), Ending.MISSING_PARK),
    (Contract.HEADLESS, "fails", status("success"), Ending.MISSING_FAIL),
    (Contract.HEADLESS, "steps", status("partial"), Ending.PARTIAL),
    (Contract.HEADLESS, "steps", status("failure"), Ending.FAILURE),
    (Contract.HEADLESS, "steps", status("needs_input"), Ending.NEEDS_INPUT),
]

WORKFLOWS: Final[Mapping[str, str]] = {
    "steps": "",
    "short": "max_duration_s = 0.3",
    "silent": "inactivity_s = 0.3",
    "no_program": "",
    "no_secret": 'secrets = { KEY = "gone" }',
    # Port 1 of this machine: nothing listens there.
    "no_repository": 'checkout = true\ncheckout_url = "http://127.0.0.1:1"',
    "parks": 'required_artifacts = ["report.xml"]',
    "fails": 'required_artifacts = ["report.xml"]\nmissing_artifacts = "fail"',
}


def config(tmp_path: Path, url: str) -> Path:
    """Write workflows for both contracts; each runs the script that its job's action names."""
    tables = ['[secrets.gone]\nfile = "no-such-file"']
    for contract in Contract:
        for name, options in WORKFLOWS.items():
            program = "/no/such/program" if name == "no_program" else "/bin/sh"
            script = f'. "{tmp_path}/scripts/$GITHUB_EVENT_ACTION"'
            command = json.dumps([program, "-c", script])
            tables.append(
                f'[workflows.{name}-{contract}]\ncommand = {command}\ncontract = "{contract}"\n'
                f"max_retries = 0\nstart_retries = 0\nkill_grace_s = 1\n{options}"
            )
    file = write_config(
        tmp_path / "machine", url, {}, runs="slots = 4\nqueue_ahead = 300"
    )
    file.write_text(file.read_text() + "\n".join(tables))
    return file


@define
class Machine:
    """A daemon and its endpoint; runs scripts as jobs."""

    folder: Path
    daemon: DaemonHere
    hub: Endpoint
    count: int = 0

    def submit(self, workflow: str, contract: Contract, script: str) -> str:
        self.count += 1
        job_id = f"j{self.count}"
        (self.folder / "scripts" / job_id).write_text(script)
        self.hub.hand_out(
            {
                "id": job_id,
                "dag_name": f"{workflow}-{contract}",
                "event_action": job_id,
                "repository_name": "o/r",
            }
        )
        return job_id

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return the record of a job once it has ended or is parked."""
        tracked = self.daemon.state / "jobs" / f"{job_id}.json"
        past = self.daemon.state / "history" / f"{job_id}.json"

        def settled() -> dict[str, Any] | None:
            for path in (past, tracked):
                record = self.read(path)
                if record.get("phase") in ("needs_attention", "history"):
                    return record
            return None

        record = await until(settled, 60, job_id) or {}
        check("tracked-job", record)
        return record

    def read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        return found


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    (tmp_path / "scripts").mkdir()
    async with (
        endpoint() as hub,
        running_daemon(config(tmp_path, hub.url)) as daemon,
    ):
        yield Machine(tmp_path, daemon, hub)


def held_by(
    record: dict[str, Any], hub: Endpoint, contract: Contract, ending: Ending
) -> str:
    """Return the words of a record, once it has been held against the row of the table."""
    ruling = TABLE[contract][ending]
    attempt = record["attempts"][-1]
    assert attempt.get("cause") == ruling.cause
    assert len(record["attempts"]) == 1
    if ruling.then is Then.PARK:
        assert record["phase"] == "needs_attention"
        assert record["job"]["id"] not in hub.finished
        return str(record["blocked"])
    finished = hub.finished[record["job"]["id"]]
    assert finished["result_status"] == ruling.outcome
    assert finished.get("result_cause") == ruling.cause
    return str(finished["result_summary"])


def test_every_row_has_a_case() -> None:
    covered = {(contract, ending) for contract, _, _, ending in [*FEW, *OTHERS]}

    assert covered == {
        (contract, ending)
        for contract in Contract
        for ending in TABLE[contract]
        # They need another user, a file system without holes, or a cluster.
        if ending not in (Ending.UNKILLABLE, Ending.OUTPUT, Ending.QUEUED)
    }


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(FEW, id="few"),
        pytest.param(CASES, id="all", marks=pytest.mark.torture(least_s=20)),
    ],
)
async def test_every_exit_code_with_every_kind_of_result(
    machine: Machine, cases: list[Case]
) -> None:
    submitted = []
    for contract, last, file, ending in cases:
        content = FILES[file]
        if content is not None:
            (machine.folder / file).write_bytes(content)
        # A plain command may leave such a file too, and nobody looks at it.
        target = '"$(dirname "$DISPATCHD_EVENTS")/result.json"'
        leave = "" if content is None else f"cp '{machine.folder / file}' {target}\n"
        job_id = machine.submit("steps", contract, leave + last)
        submitted.append((job_id, contract, file, ending))

    for job_id, contract, file, ending in submitted:
        record = await machine.ended(job_id)

        words = held_by(record, machine.hub, contract, ending)
        if ending is Ending.NO_RESULT:
            assert WORDS[file] in words
        if contract is Contract.HEADLESS and file in VALID and last_is_said(ending):
            assert "As told." in words


def last_is_said(ending: Ending) -> bool:
    return ending in (Ending.SUCCESS, Ending.EXIT_1, Ending.EXIT_2, Ending.EXIT_3)


async def test_every_other_ending(machine: Machine) -> None:
    submitted = [
        (machine.submit(workflow, contract, script), contract, ending)
        for contract, workflow, script, ending in OTHERS
    ]
    for job_id, _, ending in submitted:
        if ending is Ending.CANCELLED:
            await machine.daemon.until_logged("job_attempt_started", job_id=job_id)
            machine.hub.hand_out(
                {"id": f"c-{job_id}", "command": "cancel", "dag_run_id": job_id}
            )

    for job_id, contract, ending in submitted:
        record = await machine.ended(job_id)

        held_by(record, machine.hub, contract, ending)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        ('mkfifo "$DISPATCHD_RESULT"', "isn't a regular file"),
        ('mkdir "$DISPATCHD_RESULT"', "isn't a regular file"),
        ('ln -s /etc/hostname "$DISPATCHD_RESULT"', "can't be read"),
        ('printf "[%*s" 100000 "" | tr " " "[" >"$DISPATCHD_RESULT"', "isn't JSON"),
    ],
)
async def test_a_hostile_result_is_no_result(
    machine: Machine, plant: str, reason: str
) -> None:
    job_id = machine.submit("steps", Contract.HEADLESS, plant)

    record = await machine.ended(job_id)

    words = held_by(record, machine.hub, Contract.HEADLESS, Ending.NO_RESULT)
    assert reason in words
