"""Dagu's states of a run, and what they say about an attempt. Pure."""

import re
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.agent.engines.start_script import CLAIM_LOST, TOO_LATE
from dispatchd.protocol.outcome import Exit, FailureCause

_FAILED: Final = 2
_ABORTED: Final = 3
_SUCCEEDED: Final = 4
_PARTIALLY: Final = 6
_REJECTED: Final = 8

_WORDS: Final = MappingProxyType(
    {
        0: "not started",
        1: "running",
        _FAILED: "failed",
        _ABORTED: "aborted",
        _SUCCEEDED: "succeeded",
        5: "queued",
        _PARTIALLY: "partially succeeded",
        7: "waiting",
        _REJECTED: "rejected",
    }
)
"""States by their numbers, which are the same in Dagu 1 and 2."""

_FINAL: Final = (_FAILED, _ABORTED, _SUCCEEDED, _PARTIALLY, _REJECTED)

_CODE: Final = re.compile(r"exit status ([0-9]{1,3})\b")

KILLED: Final = 137
"""Exit code of a command that SIGKILL has ended."""

_QUOTING: Final = "recent stderr"
"""Beginning of the part of a message that Dagu quotes from what a step printed."""

_LEASE: Final = re.compile(r"\blease\b", re.IGNORECASE)
"""Mark of a message with which Dagu gives up a run whose worker it has not heard of."""


@frozen(kw_only=True)
class Run:
    """One run of a DAG, as its server knows it. `where` is its worker, `errors` are the messages of its steps."""

    name: str
    status: int
    where: str = ""
    errors: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """True if Dagu does nothing more for it. What it started may still run."""
        return self.status in _FINAL

    @property
    def is_stopped(self) -> bool:
        """True if somebody has ended it."""
        return self.status in (_ABORTED, _REJECTED)

    @property
    def is_given_up(self) -> bool:
        """True if Dagu has lost the worker of it."""
        return any(_LEASE.search(error) for error in self._own_errors)

    @property
    def _own_errors(self) -> tuple[str, ...]:
        return tuple(error.partition(_QUOTING)[0] for error in self.errors)

    @property
    def code(self) -> int | None:
        """Exit code of the script, where Dagu has seen it end."""
        if self.status == _SUCCEEDED:
            return 0
        if self.status != _FAILED or self.is_given_up:
            return None
        found = [_CODE.search(error) for error in self._own_errors]
        return next((int(each[1]) for each in found if each is not None), None)

    @property
    def came_late(self) -> bool:
        """True if its script had no permission to begin any more, if that script has claimed nothing."""
        return self.code == TOO_LATE

    def described(self) -> str:
        """Return its place and state in words."""
        word = _WORDS.get(self.status, f"in state {self.status}")
        where = f" on {self.where}" if self.where else ""
        return f"Dagu run {self.name}: {word}{where}"

    def explained(self) -> str:
        """Return its state in words, with the first message of it."""
        why = f" ({self.errors[0]})" if self.errors else ""
        return f"{self.described()}{why}"


def ended(run: Run, exit_file: int | None) -> Exit | None:
    """Return how an attempt ended whose run is over for Dagu; None if nobody knows whether its script has ended.

    The code that Dagu has seen counts; the one in the file is that of the attempt's own script, which it could write.
    """
    code = run.code
    if code is None or code == CLAIM_LOST or (code == 0 and exit_file is not None):
        # A second script of a run that somebody repeated, an end that says nothing, or a DAG that forgives a failure.
        code = exit_file
    if code is None:
        return None
    if run.is_stopped:
        note = f"{run.described()}."
        return Exit(
            code=code,
            cause=FailureCause.CANCELLED,
            escalated=code == KILLED,
            note=note,
        )
    if run.is_given_up and code:
        return lost(run)
    if run.code is None and run.status == _FAILED:
        note = f"{run.explained()}; the exit code is the one that its script left."
        return Exit(code=code, note=note)
    return Exit(code=code)


def lost(run: Run) -> Exit:
    """Return the end of an attempt that was given up: its command may have done anything."""
    if run.is_given_up:
        note = f"Dagu gave up run {run.name}, because its worker's lease was over: {run.errors[0]}."
        return Exit(code=None, note=note)
    note = f"{run.explained()}, and its script left no exit code."
    return Exit(code=None, note=note)
