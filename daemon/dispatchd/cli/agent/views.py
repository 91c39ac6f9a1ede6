"""Texts about a tracked job for people."""

from datetime import UTC, datetime
from typing import Final

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase

_SHOWN: Final = 60
"""Longest part of a reason in a table (characters)."""


def purpose(record: TrackedJob) -> str:
    """Return the purpose of a job, in a few words."""
    job = record.job
    about = (
        f"#{job.pull_request or job.issue}"
        if job.pull_request or job.issue
        else job.sha[:10] or job.ref
    )
    event = f"{job.event}.{job.action}" if job.action else job.event
    return " ".join(word for word in (job.repository, about, event) if word)


def standing(record: TrackedJob) -> str:
    """Return the outcome with its cause if there is one, else the phase."""
    verdict = record.verdict
    if verdict is None:
        return "given back" if record.phase is Phase.HISTORY else _waiting(record)
    cause = f" ({verdict.cause})" if verdict.cause else ""
    unreported = " - not reported yet" if record.phase is Phase.FINISHING else ""
    return f"{verdict.outcome}{cause}{unreported}"


def _waiting(record: TrackedJob) -> str:
    if not record.blocked:
        return record.phase
    words = " ".join(record.blocked.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 1] + "…"


def annotation_line(level: str, path: str, line: int, message: str) -> str:
    """Return a remark on a line of a file in one line."""
    return f"{level}  {path}:{line}  {' '.join(message.split())}"


def age(since: datetime) -> str:
    """Return the time since a point in time, such as `3 m`."""
    return length(max(0.0, (datetime.now(UTC) - since).total_seconds()))  # noqa: TID251  # shown, never decided from


def length(seconds: float) -> str:
    """Return a length of time in its largest unit, such as `3 m`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
