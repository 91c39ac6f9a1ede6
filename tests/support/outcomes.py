"""How each end of a job is told, as the project's promise has it; written down here apart from the code."""

from dispatchd.hub.domain.model import State
from dispatchd.protocol.outcome import FailureCause

CAUSES = ("", *(cause.value for cause in FailureCause), "lease-expired", "of-tomorrow")
"""Every cause of the contract, none, and one that nobody knows yet."""

OUTCOMES = ("succeeded", "partially_succeeded", "failed", "aborted", "rejected")
"""What a machine says of an end."""

ENDS = {
    State.SUCCEEDED: ("success", "success"),
    State.PARTIALLY_SUCCEEDED: ("neutral", "success"),
    State.FAILED: ("failure", "failure"),
    State.ABORTED: ("cancelled", "error"),
    State.REJECTED: ("failure", "error"),
    State.IGNORED: ("cancelled", "error"),
    State.SUPERSEDED: ("cancelled", "error"),
}
"""State -> conclusion of a check run, state of a commit status."""

FAILED_BY = {
    "max-duration": ("timed_out", "failure"),
    "inactivity-timeout": ("timed_out", "failure"),
    "queue-timeout": ("timed_out", "failure"),
    "lost": ("failure", "error"),
    "spawn": ("failure", "error"),
    "workspace": ("failure", "error"),
    "lease-expired": ("failure", "error"),
}
"""Cause of a failure -> the same, where it isn't that of every failure."""


def expected(state: str, cause: str) -> tuple[str, str]:
    """Return conclusion of a check run and state of a commit status."""
    end = ENDS[State(state)]
    return FAILED_BY.get(cause, end) if state == State.FAILED else end
