"""Ends of scripts that an engine calls over, and what they say about an attempt. Pure."""

from typing import Final

from attrs import frozen

from dispatchd.agent.engines.port import Found, State
from dispatchd.agent.engines.start_claims import Legacy
from dispatchd.agent.engines.start_script import CLAIM_LOST, TOO_LATE
from dispatchd.protocol.outcome import Exit, FailureCause

KILLED: Final = 137
"""Exit code of a command that SIGKILL has ended."""


@frozen(kw_only=True)
class Words:
    """Words for an engine in messages: its name, one execution of it, and whoever answers for it.

    `unfound` asks a question about a start that the engine has taken, and doesn't find, `unbegun` about one that is over
    and never began, with a space before it.
    """

    engine: str
    execution: str
    controller: str
    unfound: str = ""
    unbegun: str = ""

    def described(self, name: str, found: Found) -> str:
        """Return the place and state of a script in words."""
        where = f" on {found.where}" if found.where else ""
        waits = found.state is State.WAITING and found.reason
        why = f" ({found.reason})" if waits else ""
        return f"{self.execution} {name}: {found.words or found.state}{why}{where}"

    def explained(self, name: str, found: Found) -> str:
        """Return the state of a script that has ended, with the reason."""
        why = f" ({found.reason})" if found.reason else ""
        return f"{self.described(name, found)}{why}"


def came_late(found: Found) -> bool:
    """Return whether a script had no permission to begin any more, if it has claimed nothing."""
    return found.code == TOO_LATE


def is_second(found: Found) -> bool:
    """Return whether it was another script that ended, which found the attempt claimed by the first."""
    is_own_end = found.is_stopped or found.is_given_up
    return found.code == CLAIM_LOST and not is_own_end


def ended(
    words: Words, name: str, found: Found, legacy: Legacy, *, is_stopping: bool = False
) -> Exit | None:
    """Return how an attempt ended whose script is over for its engine; None if nobody knows whether it has ended.

    The code that the engine has seen counts; the one in the file is that of the attempt's own script, which it could write.
    `is_stopping` says that the daemon ends the attempt for a reason of its own. Else it has told a script to end because
    its engine gave it up, which may have changed its mind since.
    """
    code = found.code
    if code is None or code == CLAIM_LOST or (code == 0 and legacy.code is not None):
        # A second script of a start that somebody repeated, an end that says nothing, or an engine that forgives a failure.
        code = legacy.code
    if code is None:
        return None
    if found.is_stopped:
        return Exit(
            code=code,
            cause=FailureCause.CANCELLED,
            escalated=code == KILLED,
            note=f"{words.described(name, found)}.",
        )
    is_blind = found.is_given_up or found.code is None
    if (legacy.was_ordered and not is_stopping) or (legacy.was_stopped and is_blind):
        return lost(words, name, found, was_terminated=True)
    if found.code is None and found.reason:
        note = f"{words.explained(name, found)}; the exit code is the one that its script left."
        return Exit(code=code, note=note)
    return Exit(code=code)


def unheard(words: Words, name: str, code: int | None, *, refused: bool) -> Exit:
    """Return the end of an attempt of which its engine says nothing, by the exit code that its script has left, or hasn't."""
    why = "refuses this machine" if refused else "doesn't answer"
    said = "the exit code is the one that its script left"
    if code is None:
        said = "its script left no exit code"
    note = f"{words.execution} {name}: {words.controller} {why}; {said}."
    return Exit(code=code, note=note)


def lost(
    words: Words, name: str, found: Found, *, was_terminated: bool = False
) -> Exit:
    """Return the end of an attempt that was given up: its command may have done anything.

    `was_terminated` says that its command was ended therefore.
    """
    how = (
        "its command was terminated"
        if was_terminated
        else "its script left no exit code"
    )
    if found.is_given_up and found.reason:
        note = f"{words.engine} gave up run {name}: {found.reason}; {how}."
        return Exit(code=None, note=note)
    note = f"{words.explained(name, found)}, and {how}."
    return Exit(code=None, note=note)
