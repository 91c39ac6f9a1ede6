"""How a run ended: the outcome, the failure cause, and the rule that derives both from an exit."""

from enum import StrEnum
from signal import Signals
from typing import Final

from attrs import frozen


class Outcome(StrEnum):
    """How a run ended; the values travel on the wire as `result_status`."""

    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    """Somebody ended it."""
    REJECTED = "rejected"
    """It was never run, because it can't be run here."""


class FailureCause(StrEnum):
    """The structured reason beside an outcome that isn't a success."""

    EXIT_CODE = "exit-code"
    SIGNAL = "signal"
    MAX_DURATION = "max-duration"
    SPAWN = "spawn"
    LOST = "lost"
    """The process is gone and left no exit code, as after a power cut."""
    UNKNOWN_WORKFLOW = "unknown-workflow"
    INVALID_JOB = "invalid-job"
    CANCELLED = "cancelled"
    NO_TARGET = "no-target"
    """A cancel job for which nothing is left to cancel."""


RETRY_SAFE: Final = frozenset(
    {FailureCause.SIGNAL, FailureCause.MAX_DURATION, FailureCause.LOST}
)
"""Failures of the surroundings rather than of the command; only these use the retry budget."""


@frozen(kw_only=True)
class Verdict:
    """The end of a run, as it is stored and reported; `summary` is one or two sentences."""

    outcome: Outcome
    cause: FailureCause | None = None
    summary: str


@frozen(kw_only=True)
class Exit:
    """What is known of an attempt that has ended.

    `code` is the command's exit code as a POSIX shell reports it (128 + n for signal n), or None where
    the process vanished without one. `leftovers` counts processes of the run that outlived their
    leader and were ended. `escalated` is true where SIGKILL was needed.
    """

    code: int | None
    leftovers: int = 0
    escalated: bool = False


@frozen
class NeverStarted:
    """The attempt's command was certainly never executed."""


_SIGNAL_BASE: Final = 128
"""A shell reports a command that signal n ended as 128 + n (POSIX.1-2017, Shell, 2.8.2)."""

_SHELL_HINTS: Final = {
    126: " (a shell's code for: found, but can't be executed)",
    127: " (a shell's code for: command not found)",
}


def judge(exit_: Exit, *, stop: FailureCause | None, duration_s: float) -> Verdict:
    """Derive the verdict of an attempt under the `plain` contract.

    Args:
        exit_: How the attempt ended.
        stop: Why the daemon ended it, where it did; the first decision names the cause.
        duration_s: Seconds from start to end.
    """
    verdict = (
        _stopped(exit_, stop, duration_s)
        if stop is not None
        else _ended(exit_, duration_s)
    )
    notes = []
    if exit_.escalated:
        notes.append("It ignored SIGTERM and was ended with SIGKILL.")
    if exit_.leftovers:
        notes.append(
            f"{exit_.leftovers} of its processes were left behind and were ended."
        )
    return Verdict(
        outcome=verdict.outcome,
        cause=verdict.cause,
        summary=" ".join([verdict.summary, *notes]),
    )


def _stopped(exit_: Exit, stop: FailureCause, duration_s: float) -> Verdict:
    if stop is FailureCause.CANCELLED:
        return Verdict(
            outcome=Outcome.ABORTED,
            cause=stop,
            summary=f"Cancelled after {duration_s:.1f} s.",
        )
    how = (
        "it had to be ended"
        if exit_.code is None
        else f"it ended with exit code {exit_.code}"
    )
    return Verdict(
        outcome=Outcome.FAILED,
        cause=stop,
        summary=f"Reached its time limit ({stop}) after {duration_s:.1f} s; {how}.",
    )


def _ended(exit_: Exit, duration_s: float) -> Verdict:
    if exit_.code is None:
        summary = f"The process was lost {duration_s:.1f} s after its start: it is gone and left no exit code."
        return Verdict(outcome=Outcome.FAILED, cause=FailureCause.LOST, summary=summary)
    if exit_.code == 0:
        return Verdict(
            outcome=Outcome.SUCCEEDED, summary=f"Succeeded after {duration_s:.1f} s."
        )
    name = signal_name(exit_.code)
    if name is not None:
        return Verdict(
            outcome=Outcome.FAILED,
            cause=FailureCause.SIGNAL,
            summary=f"Ended by {name} after {duration_s:.1f} s.",
        )
    summary = f"Failed with exit code {exit_.code} after {duration_s:.1f} s{_SHELL_HINTS.get(exit_.code, '')}."
    return Verdict(
        outcome=Outcome.FAILED, cause=FailureCause.EXIT_CODE, summary=summary
    )


def signal_name(code: int) -> str | None:
    """Return the signal that a shell's exit code stands for, such as `SIGKILL`, or None."""
    try:
        return Signals(code - _SIGNAL_BASE).name
    except ValueError:
        return None
