"""Dagu's states of a run, and what they say about a run. Pure."""

import re
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.agent.engines.port import Found, State

_FAILED: Final = 2
_ABORTED: Final = 3
_SUCCEEDED: Final = 4
_PARTIALLY: Final = 6
_REJECTED: Final = 8
_RUNNING: Final = 1
_QUEUED: Final = 5

_WAITING: Final = (0, _QUEUED)

UNFINISHED: Final = (_RUNNING, _QUEUED)
"""States of runs that are over at some time, by whose numbers the server lists them."""

_WORDS: Final = MappingProxyType(
    {
        0: "not started",
        _RUNNING: "running",
        _FAILED: "failed",
        _ABORTED: "aborted",
        _SUCCEEDED: "succeeded",
        _QUEUED: "queued",
        _PARTIALLY: "partially succeeded",
        7: "waiting",
        _REJECTED: "rejected",
    }
)
"""States by their numbers, which are the same in Dagu 1 and 2."""

_FINAL: Final = (_FAILED, _ABORTED, _SUCCEEDED, _PARTIALLY, _REJECTED)

_CODE: Final = re.compile(r"exit status ([0-9]{1,3})\b")

_QUOTING: Final = "recent stderr"
"""Beginning of the part of a message that Dagu quotes from what a step printed."""

_GIVEN_UP: Final = MappingProxyType(
    {
        re.compile(r"\blease\b", re.IGNORECASE): "its worker's lease was over",
        re.compile(
            r"\bprocess terminated unexpectedly\b"
        ): "whoever executed it for Dagu was gone",
    }
)
"""Marks of messages with which Dagu gives up a run, and what they mean. The first is of Dagu 2, the second of both."""


@frozen(kw_only=True)
class Run:
    """One run of a DAG, as its server knows it. `where` is its worker, `errors` are the messages of its steps."""

    name: str
    status: int
    where: str = ""
    errors: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """True if nobody has begun it."""
        return self.status in _WAITING

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
        """True if Dagu has lost sight of it."""
        return bool(self._why_given_up)

    @property
    def _why_given_up(self) -> str:
        said = (
            why
            for mark, why in _GIVEN_UP.items()
            if any(mark.search(error) for error in self._own_errors)
        )
        return next(said, "")

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

    def found(self) -> Found:
        """Return it as every engine says it."""
        state = State.WAITING if self.is_waiting else State.RUNNING
        reason = self.errors[0] if self.errors else ""
        if self.is_given_up:
            reason = f"{self._why_given_up}: {reason}"
        return Found(
            state=State.ENDED if self.is_final else state,
            code=self.code,
            words=_WORDS.get(self.status, f"in state {self.status}"),
            where=self.where,
            reason=reason,
            is_stopped=self.is_stopped,
            is_given_up=self.is_given_up,
        )
