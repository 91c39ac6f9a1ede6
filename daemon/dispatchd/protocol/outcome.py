"""End of a run: the outcome, the failure cause, and the facts about an attempt that is over."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from attrs import frozen
from typing_extensions import override


@frozen(kw_only=True)
class Resources:
    """Limits of one attempt with all its processes; 0 is none. They apply where a control group enforces them."""

    memory_bytes: int = 0
    pids: int = 0
    cpu_weight: int = 0
    """Weight as in cpu.weight of cgroup v2: 1 to 10000, 100 is the default."""


@frozen(kw_only=True)
class Usage:
    """Resources that an attempt used, as its control group counted them; None is unknown."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    pids_refused: int = 0
    """Process starts that its limit (`pids_max`) refused (count)."""
    oom_kills: int = 0
    """Processes of it that the kernel ended for lack of memory (count)."""


class Outcome(StrEnum):
    """Outcome of a run; the values travel on the wire as `result_status`."""

    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    """Ended by somebody."""
    REJECTED = "rejected"
    """Never run, because it can't be run here."""


class FailureCause(StrEnum):
    """The structured reason beside an outcome that isn't a success."""

    EXIT_CODE = "exit-code"
    """The command itself reported failure, by its exit code or its result."""
    SIGNAL = "signal"
    MAX_DURATION = "max-duration"
    INACTIVITY_TIMEOUT = "inactivity-timeout"
    SPAWN = "spawn"
    """Nothing could be started: the program, or a secret that it needs, was not found."""
    LOST = "lost"
    """The process is gone and left no exit code, as after a power cut."""
    CONTRACT_VIOLATION = "contract-violation"
    """A headless command left no result, or an invalid one."""
    MISSING_ARTIFACT = "missing-artifact"
    WORKSPACE = "workspace"
    """The job's repository could not be checked out."""
    UNKNOWN_WORKFLOW = "unknown-workflow"
    INVALID_JOB = "invalid-job"
    CANCELLED = "cancelled"
    NEEDS_INPUT = "needs-input"
    """A person has to decide, or had to."""
    QUEUE_TIMEOUT = "queue-timeout"
    """The job waited too long for a slot."""
    NO_TARGET = "no-target"
    """A cancel job found nothing left to cancel."""
    UNKILLABLE = "unkillable"
    """A process of the run can't be ended, and was given up."""


@frozen(kw_only=True)
class Verdict:
    """End of a run, as it is stored and reported. `summary` is one or a few sentences."""

    outcome: Outcome
    cause: FailureCause | None = None
    summary: str


ENDINGS: Final[Mapping[str, Outcome]] = MappingProxyType(
    {"fail": Outcome.FAILED, "succeed": Outcome.SUCCEEDED}
)
"""Decision that ends a parked job -> its outcome."""

CHOICES: Final = ("retry", *ENDINGS)
"""Decisions about a parked job; `retry` is another attempt."""

LONGEST_NOTE: Final = 1000
"""Longest note of a decision (characters), as in resolve-request.schema.json."""


def marked(choice: str, who: str, note: str) -> Verdict | None:
    """Return the verdict of a parked job that a person has decided about; None for another attempt."""
    outcome = ENDINGS.get(choice)
    if outcome is None:
        return None
    summary = f"Marked as {outcome} by {who}"
    return Verdict(
        outcome=outcome,
        cause=FailureCause.NEEDS_INPUT if outcome is Outcome.FAILED else None,
        summary=f"{summary}: {note}" if note else f"{summary}.",
    )


@frozen(kw_only=True)
class Survivor:
    """Process that can't be ended. `name` is the command's, as the kernel shortens it."""

    pid: int
    name: str
    user: str

    @override
    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}, user {self.user})"


@frozen(kw_only=True)
class Cleared:
    """Processes that an attempt left behind: the number of those that were ended (count), and the others."""

    ended: int = 0
    survivors: tuple[Survivor, ...] = ()


@frozen(kw_only=True)
class Exit:
    """Facts about an attempt that has ended.

    `code` is the command's exit code as a POSIX shell reports it (128 + n for signal n), or None where
    the process vanished without one. `leftovers` is the number of processes of the run that outlived their
    leader and were ended; `survivors` are those that could not be ended. `escalated` is true where SIGKILL
    was needed. `usage` is None where no control group measured it. `cause` is the engine's
    own reason for the end, where the daemon didn't end the attempt. `note` is a sentence for the summary, or empty.
    """

    code: int | None
    leftovers: int = 0
    survivors: tuple[Survivor, ...] = ()
    escalated: bool = False
    usage: Usage | None = None
    cause: FailureCause | None = None
    note: str = ""


@frozen
class Unreachable:
    """Nobody knows whether the attempt has ended: its engine's controller doesn't answer. Nothing is decided on it.

    `since` is the time of the first failure in a row.
    """

    reason: str
    since: datetime


@frozen
class NeverStarted:
    """The attempt's command was certainly never executed."""
