"""Texts about a tracked job for people."""

import time
from datetime import datetime
from typing import Final

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.protocol.times import rough

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
    reason = " ".join(record.blocked.split())
    shown = reason if len(reason) <= _SHOWN else reason[: _SHOWN - 1] + "…"
    return f"{record.phase}: {shown}"


def took(record: TrackedJob) -> str:
    """Return the time from the first start of a job's run to its end, or to now; empty if it has not started."""
    if not record.attempts:
        return ""
    started_at, ended_at = record.attempts[0].started_at, record.attempts[-1].ended_at
    if ended_at is None or record.phase is Phase.RETRY_WAIT:
        return rough(age_s(started_at))
    return rough((ended_at - started_at).total_seconds())


def annotation_line(level: str, path: str, line: int, message: str) -> str:
    """Return a remark on a line of a file in one line."""
    return f"{level}  {path}:{line}  {' '.join(message.split())}"


def passed_s(at: float | datetime) -> float:
    """Return the time since a point in time (seconds); below 0 for one to come. Numbers are seconds since the epoch."""
    seconds = at.timestamp() if isinstance(at, datetime) else at
    return time.time() - seconds  # noqa: TID251  # shown, never decided from


def age_s(at: float | datetime) -> float:
    """Return the time since something that has happened (seconds): 0 if the clock that it was taken from is ahead."""
    return max(0.0, passed_s(at))
