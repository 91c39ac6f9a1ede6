"""Judgement of an attempt that is over: its meaning, and the sentences that say so."""

from collections.abc import Callable, Mapping
from signal import Signals
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from dispatchd.agent.domain.exit_table import TABLE, Contract, Ending, Ruling, Then
from dispatchd.agent.domain.run.events import Story
from dispatchd.protocol.outcome import Exit, FailureCause, Outcome, Survivor, Usage
from dispatchd.protocol.result import NoResult, ResultStatus, RunResult
from dispatchd.protocol.times import duration

_NAMED: Final = 5
"""Most unkillable processes that a summary names (count)."""

_SIGNAL_BASE: Final = 128
"""Offset of exit codes for signals: a shell reports a command that signal n ended as 128 + n
(POSIX.1-2017, Shell, 2.8.2)."""

_SHELL_HINTS: Final = {
    126: " (a shell's code for: found, but can't be executed)",
    127: " (a shell's code for: command not found)",
}

_STOPS: Final = {
    FailureCause.CANCELLED: Ending.CANCELLED,
    FailureCause.NEEDS_INPUT: Ending.BLOCKED,
    FailureCause.MAX_DURATION: Ending.MAX_DURATION,
    FailureCause.INACTIVITY_TIMEOUT: Ending.INACTIVITY,
    FailureCause.SIGNAL: Ending.OUTPUT,
    FailureCause.QUEUE_TIMEOUT: Ending.QUEUED,
}

_SAID: Final = {
    ResultStatus.SUCCESS: Ending.SUCCESS,
    ResultStatus.PARTIAL: Ending.PARTIAL,
    ResultStatus.FAILURE: Ending.FAILURE,
    ResultStatus.NEEDS_INPUT: Ending.NEEDS_INPUT,
}

_CODES: Final = {1: Ending.EXIT_1, 2: Ending.EXIT_2, 3: Ending.EXIT_3}

_FAILURES: Final = (*_CODES.values(), Ending.OTHER_EXIT)

_SUCCESSES: Final = (Outcome.SUCCEEDED, Outcome.PARTIALLY_SUCCEEDED)


@frozen(kw_only=True)
class Evidence:
    """Everything that an attempt has left behind.

    `result` is None under the plain contract, which has none. `missing` are required artifacts that
    were not found. `parked_for` is an operator's reason to park it. `output_left_out` is the size of the part
    that was cut out of its output (bytes). `denial` is a message in its output about a denied access, where its
    isolation may be why. `duration_s` is the time from start to end (seconds).
    """

    end: Exit
    contract: Contract = Contract.PLAIN
    result: RunResult | NoResult | None = None
    story: Story
    missing: tuple[str, ...] = ()
    missing_fails: bool = False
    parked_for: str = ""
    output_left_out: int = 0
    denial: str = ""
    duration_s: float


@frozen
class Judgement:
    """Meaning of an attempt's end. `summary` is for people, and may quote the command."""

    ending: Ending
    ruling: Ruling
    summary: str


def judge(evidence: Evidence, stop: FailureCause | None) -> Judgement:
    """Judge an attempt.

    Args:
        evidence: Everything that the attempt left behind.
        stop: The reason why the daemon ended it, if it did; the first decision names the cause.
    """
    survivors = evidence.end.survivors
    if survivors:
        end = evolve(evidence.end, survivors=())
        otherwise = judge(evolve(evidence, end=end), stop)
        return _unkillable(evidence.contract, survivors, otherwise.summary)
    ending = _ending(evidence, stop or evidence.end.cause)
    ruling = TABLE[evidence.contract][ending]
    if evidence.missing and ruling.outcome in _SUCCESSES:
        ending = Ending.MISSING_FAIL if evidence.missing_fails else Ending.MISSING_PARK
        ruling = TABLE[evidence.contract][ending]
    after = f"after {duration(evidence.duration_s)}"
    sentence = _SENTENCES.get(ending, _exited)(evidence, after)
    return Judgement(ending, ruling, " ".join([sentence, *_notes(evidence, ending)]))


def never_started(
    contract: Contract, ending: Ending, why: str, *, starts: int = 1
) -> Judgement:
    """Judge an attempt that never got a process, after `starts` starts (count); `why` is the reason of the last one."""
    tried = f" It was tried {starts} times." if starts > 1 else ""
    summary = f"Nothing was run: {why}.{tried}"
    return Judgement(ending, TABLE[contract][ending], summary)


def _unkillable(
    contract: Contract, survivors: tuple[Survivor, ...], otherwise: str
) -> Judgement:
    named = ", ".join(str(survivor) for survivor in survivors[:_NAMED])
    more = f" and {len(survivors) - _NAMED} more" if len(survivors) > _NAMED else ""
    sentence = f"{len(survivors)} of its processes can't be ended, and were given up: {named}{more}."
    ruling = TABLE[contract][Ending.UNKILLABLE]
    return Judgement(Ending.UNKILLABLE, ruling, f"{sentence} {otherwise}")


def signal_name(code: int) -> str | None:
    """Return the signal that a shell's exit code stands for, such as `SIGKILL`, or None."""
    try:
        return Signals(code - _SIGNAL_BASE).name
    except ValueError:
        return None


def _ending(evidence: Evidence, stop: FailureCause | None) -> Ending:
    if stop is not FailureCause.CANCELLED and evidence.story.blocked is not None:
        # The run asked for a person. However it ended, another attempt would only ask again.
        return Ending.BLOCKED
    if stop is not None:
        return _STOPS[stop]
    code = evidence.end.code
    if code is None:
        return Ending.LOST
    if code == 0:
        return _of_success(evidence)
    if signal_name(code) is not None:
        return Ending.SIGNAL
    return _CODES.get(code, Ending.OTHER_EXIT)


def _of_success(evidence: Evidence) -> Ending:
    match evidence.result:
        case RunResult(status=status):
            return _SAID[status]
        case NoResult():
            return Ending.NO_RESULT
        case None:
            return Ending.EXIT_0


def _blocked(evidence: Evidence) -> str:
    return f"Waits for a person: {evidence.story.blocked or evidence.parked_for}"


def _overdue(evidence: Evidence, what: str) -> str:
    code = evidence.end.code
    how = "terminated" if code is None else f"exit code {code}"
    where = evidence.story.where()
    return f"{what}; {how}." + (f" It hung {where}." if where else "")


def _without_result(evidence: Evidence, after: str) -> str:
    reason = evidence.result.reason if isinstance(evidence.result, NoResult) else ""
    return f"Ended with exit code 0 {after}, without a valid result: {reason}."


def _lacking(evidence: Evidence, after: str) -> str:
    missing = ", ".join(evidence.missing)
    return f"Succeeded {after}, but required artifacts are missing: {missing}."


def _needing_input(evidence: Evidence, after: str) -> str:
    # Under the plain contract exit 3 is a failure like any other.
    if evidence.contract is Contract.PLAIN:
        return _exited(evidence, after)
    if isinstance(evidence.result, RunResult):
        return f"Waits for a person: {evidence.result.summary}"
    return f"Needs a person (exit code 3 {after}); the run gave no reason."


def _exited(evidence: Evidence, after: str) -> str:
    code = evidence.end.code
    if isinstance(evidence.result, RunResult):
        said = evidence.result.summary
        return said if code == 0 else f"{said} (exit code {code} {after})"
    if code == 0:
        return f"Succeeded {after}."
    return f"Failed with exit code {code} {after}{_SHELL_HINTS.get(code or 0, '')}."


_SENTENCES: Final[Mapping[Ending, Callable[[Evidence, str], str]]] = MappingProxyType(
    {
        Ending.CANCELLED: lambda _, after: f"Cancelled {after}.",
        Ending.BLOCKED: lambda evidence, _: _blocked(evidence),
        Ending.MAX_DURATION: lambda evidence, after: _overdue(
            evidence, f"Reached its time limit (max_duration_s) {after}"
        ),
        Ending.INACTIVITY: lambda evidence, after: _overdue(
            evidence, f"No output for too long (inactivity timeout), {after}"
        ),
        Ending.OUTPUT: lambda evidence, after: _overdue(
            evidence,
            f"Wrote more output than it may (output_max_mib), {after}, to a file system that gives no room back",
        ),
        Ending.LOST: lambda _, after: (
            f"The process was lost: {after} it is gone and left no exit code."
        ),
        Ending.QUEUED: lambda _, after: (
            f"Waited too long in the queue of its engine (queue_timeout_s): {after} it was taken back."
        ),
        Ending.SIGNAL: lambda evidence, after: (
            f"Ended by {signal_name(evidence.end.code or 0)} {after}."
        ),
        Ending.NO_RESULT: _without_result,
        Ending.NEEDS_INPUT: _needing_input,
        Ending.EXIT_3: _needing_input,
        Ending.MISSING_PARK: _lacking,
        Ending.MISSING_FAIL: _lacking,
    }
)
"""First sentence of a summary, by ending. For the others it is about the exit code."""


def _notes(evidence: Evidence, ending: Ending) -> list[str]:
    """Return the sentences about everything else that an operator wants to know."""
    end, story = evidence.end, evidence.story
    notes = [end.note] if end.note else []
    if ending in (Ending.EXIT_1, Ending.EXIT_2) and isinstance(
        evidence.result, RunResult
    ):
        notes.append(f"It calls that {evidence.result.exit_reason}.")
    if evidence.denial and ending in _FAILURES:
        notes.append(
            f'Its output says "{evidence.denial}": if that is its isolation, keys of its workflow open more,'
            " such as read_paths and write_paths (docs/security.md)."
        )
    if end.escalated:
        notes.append("It ignored SIGTERM and was ended with SIGKILL.")
    if end.leftovers:
        notes.append(
            f"{end.leftovers} of its processes were left behind and were ended."
        )
    if end.usage is not None:
        notes += _taken(end.usage)
    notes += _left_out(evidence)
    if story.follow_ups and TABLE[evidence.contract][ending].then is not Then.RETRY:
        notes.append(f"Left to do: {'; '.join(story.follow_ups)}.")
    return notes


def _left_out(evidence: Evidence) -> list[str]:
    """Return the sentences about the parts of an attempt's texts that aren't read or stored."""
    story, notes = evidence.story, []
    if evidence.output_left_out:
        mib = -(-evidence.output_left_out // (1024 * 1024))
        notes.append(f"Of its output {mib} MiB in the middle were left out.")
    if story.malformed:
        notes.append(f"{story.malformed} lines of its events could not be read.")
    if story.left_out or story.bytes_left_out:
        notes.append(_flood(story))
    return notes


def _flood(story: Story) -> str:
    """Return the sentence about events that were too many to be read."""
    parts = [f"{story.left_out:,} lines"] if story.left_out else []
    if story.bytes_left_out:
        parts.append("all behind the first 64 MiB")
    return f"Of its events {' and '.join(parts)} were left out: they were too many."


def _taken(usage: Usage) -> list[str]:
    """Return the sentences about the resources that an attempt used."""
    notes = []
    if usage.oom_kills:
        notes.append(
            f"The kernel ended {usage.oom_kills} of its processes for want of memory."
        )
    if usage.pids_refused:
        starts = "1 start of a process was"
        if usage.pids_refused > 1:
            starts = f"{usage.pids_refused:,} starts of a process were"
        notes.append(f"{starts} refused because of its limit (pids_max).")
    figures = []
    if usage.cpu_s is not None:
        figures.append(f"{duration(usage.cpu_s)} of CPU")
    if usage.peak_memory_bytes is not None:
        figures.append(f"up to {usage.peak_memory_bytes >> 20} MiB of memory")
    if figures:
        notes.append(f"It took {' and '.join(figures)}.")
    return notes
