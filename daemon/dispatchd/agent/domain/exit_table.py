"""Meaning of the end of an attempt: one table, for both contracts between the daemon and a command.

The docs (contracts/README.md, ends of an attempt) and the tests are checked against it.
`agent/domain/verdict.py` selects the row.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final

from attrs import frozen
from typing_extensions import override

from dispatchd.protocol.outcome import FailureCause, Outcome


class Contract(StrEnum):
    """Contract between the daemon and a command: how the run is described to it, and how it reports the result."""

    PLAIN = "plain"
    """No description of the run; the exit code alone is the result."""
    HEADLESS = "headless"
    """A brief in, a result out (contracts/README.md, headless commands)."""


class Ending(Enum):
    """Ways in which an attempt can end; the values are the words of the docs."""

    UNKILLABLE = "a process of it can't be ended"
    CANCELLED = "somebody cancelled it"
    BLOCKED = "an event `block`, or an operator's `block`"
    MAX_DURATION = "`max_duration_s` reached"
    INACTIVITY = "silent for `inactivity_s`"
    OUTPUT = "more output than `output_max_mib`, where no room can be given back"
    QUEUED = "`queue_timeout_s` of its engine reached"
    LOST = "process gone without an exit code"
    SIGNAL = "signal"
    EXIT_0 = "exit 0"
    SUCCESS = "exit 0, result `success`"
    PARTIAL = "exit 0, result `partial`"
    FAILURE = "exit 0, result `failure`"
    NEEDS_INPUT = "exit 0, result `needs_input`"
    NO_RESULT = "exit 0, no valid result"
    EXIT_1 = "exit 1"
    EXIT_2 = "exit 2"
    EXIT_3 = "exit 3"
    OTHER_EXIT = "any other exit code"
    MISSING_PARK = "success, artifact missing, `missing_artifacts = park`"
    MISSING_FAIL = "success, artifact missing, `missing_artifacts = fail`"
    WORKSPACE = "never started: checkout failed"
    SECRET = "never started: secret not to be had"  # noqa: S105  # words, not a secret
    SPAWN = "never started: program can't be executed"


class Then(StrEnum):
    """Next step after an attempt."""

    FINISH = "finish"
    START_AGAIN = "start again"
    """Another start while the budget of starts lasts (`start_retries`), unless it was a refusal; else finish."""
    RETRY = "retry"
    """Another attempt while the budget of attempts lasts (`max_retries`), else finish."""
    PARK = "park"
    """A person decides."""


@frozen
class Ruling:
    """Meaning of an ending. A parked job has no outcome yet."""

    outcome: Outcome | None
    cause: FailureCause | None = None
    then: Then = Then.FINISH

    @override
    def __str__(self) -> str:
        """Return the text of the table's cell in the docs."""
        cause = f" ({self.cause})" if self.cause else ""
        match self.then:
            case Then.FINISH:
                return f"`{self.outcome}`{cause}"
            case Then.START_AGAIN:
                return f"started again, then `{self.outcome}`{cause}"
            case Then.RETRY:
                return f"retried, then `{self.outcome}`{cause}"
            case Then.PARK:
                return f"parked{cause}"


def _failed(cause: FailureCause) -> Ruling:
    return Ruling(Outcome.FAILED, cause)


def _retried(cause: FailureCause) -> Ruling:
    return Ruling(Outcome.FAILED, cause, Then.RETRY)


def _started_again(cause: FailureCause) -> Ruling:
    return Ruling(Outcome.FAILED, cause, Then.START_AGAIN)


def _parked(cause: FailureCause) -> Ruling:
    return Ruling(None, cause, Then.PARK)


_SUCCEEDED: Final = Ruling(Outcome.SUCCEEDED)

_BOTH: Final[Mapping[Ending, Ruling]] = {
    Ending.UNKILLABLE: _failed(FailureCause.UNKILLABLE),
    Ending.CANCELLED: Ruling(Outcome.ABORTED, FailureCause.CANCELLED),
    Ending.BLOCKED: _parked(FailureCause.NEEDS_INPUT),
    Ending.MAX_DURATION: _retried(FailureCause.MAX_DURATION),
    Ending.INACTIVITY: _retried(FailureCause.INACTIVITY_TIMEOUT),
    Ending.OUTPUT: _failed(FailureCause.SIGNAL),
    Ending.QUEUED: _failed(FailureCause.QUEUE_TIMEOUT),
    Ending.LOST: _retried(FailureCause.LOST),
    Ending.SIGNAL: _retried(FailureCause.SIGNAL),
    Ending.OTHER_EXIT: _failed(FailureCause.EXIT_CODE),
    Ending.MISSING_PARK: _parked(FailureCause.MISSING_ARTIFACT),
    Ending.MISSING_FAIL: _failed(FailureCause.MISSING_ARTIFACT),
    Ending.WORKSPACE: _started_again(FailureCause.WORKSPACE),
    Ending.SECRET: _started_again(FailureCause.SPAWN),
    Ending.SPAWN: _started_again(FailureCause.SPAWN),
}

TABLE: Final[Mapping[Contract, Mapping[Ending, Ruling]]] = MappingProxyType(
    {
        Contract.PLAIN: {
            **_BOTH,
            Ending.EXIT_0: _SUCCEEDED,
            Ending.EXIT_1: _failed(FailureCause.EXIT_CODE),
            Ending.EXIT_2: _failed(FailureCause.EXIT_CODE),
            Ending.EXIT_3: _failed(FailureCause.EXIT_CODE),
        },
        Contract.HEADLESS: {
            **_BOTH,
            Ending.SUCCESS: _SUCCEEDED,
            Ending.PARTIAL: Ruling(Outcome.PARTIALLY_SUCCEEDED),
            Ending.FAILURE: _failed(FailureCause.EXIT_CODE),
            Ending.NEEDS_INPUT: _parked(FailureCause.NEEDS_INPUT),
            Ending.NO_RESULT: _retried(FailureCause.CONTRACT_VIOLATION),
            Ending.EXIT_1: _failed(FailureCause.EXIT_CODE),
            Ending.EXIT_2: _retried(FailureCause.EXIT_CODE),
            Ending.EXIT_3: _parked(FailureCause.NEEDS_INPUT),
        },
    }
)

DEFAULT_RETRIES: Final[Mapping[Contract, int]] = MappingProxyType(
    {Contract.PLAIN: 0, Contract.HEADLESS: 2}
)
"""Default of `max_retries`. It is 0 for a plain command, which has not said that it may be run twice."""


DEFAULT_START_RETRIES: Final = 5
"""Default of `start_retries` (count)."""


def as_markdown() -> str:
    """Return the table for the docs, one row for each ending, in order of precedence."""
    lines = ["| the attempt ends with | plain | headless |", "| --- | --- | --- |"]
    for ending in Ending:
        cells = [str(TABLE[contract].get(ending, "")) for contract in Contract]
        lines.append(f"| {ending.value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
