"""Comparison of an answer with what a rule wants: returns the difference in words, which quote no body. Pure."""

from collections.abc import Collection, Iterable
from typing import Final

from dispatchd.conformance.record import Record

SUCCESS: Final = (200, 204)
CLOSED: Final = (404, 409, 410)
"""Statuses by which a job is closed for a machine."""


def status_problem(record: Record, step: str, allowed: Collection[int]) -> str:
    """Return how the status of a step differs from those allowed; empty if it doesn't, or was not played."""
    answer = record.answers.get(step)
    if answer is None:
        return ""
    if answer.fault:
        return f"{step}: {answer.fault}"
    wanted = " or ".join(map(str, allowed))
    if answer.status not in allowed:
        return f"{step}: {answer.status} in place of {wanted}"
    return ""


def repeat_problem(record: Record, before: str, after: str) -> str:
    """Return how the answer to a repetition differs from the first one, if that was a success."""
    first, second = record.answers.get(before), record.answers.get(after)
    if first is None or second is None or not first.is_success:
        return ""
    if second.fault:
        return f"{after}: {second.fault}"
    if not second.is_success:
        return f"{after}: {second.status} in place of {first.status}"
    return ""


def reply_problem(record: Record, step: str) -> str:
    """Return how a reply that may be empty breaks the schema of heartbeats."""
    answer = record.answers[step]
    broken = answer.breach("heartbeat-reply") if answer.body else ""
    return f"{step}: {broken}" if broken else ""


def first_of(problems: Iterable[str]) -> str:
    """Return the first problem; empty if there is none."""
    return next((problem for problem in problems if problem), "")
