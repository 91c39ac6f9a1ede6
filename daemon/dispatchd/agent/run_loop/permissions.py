"""Permissions of attempts to begin, which are renewed with each answer about their claims until they do."""

from contextlib import suppress
from typing import Final

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.tracking.ports import Engine
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.errors import RunError

_RENEWALS: Final = 4
"""Renewals of a permission to begin within a lease (count)."""

_SHORTEST_S: Final = 1.0
"""Shortest time between two renewals (seconds)."""

LONGEST_S: Final = 60.0
"""Longest time between two renewals (seconds)."""

_UNLEASED_S: Final = 600.0
"""Time between two looks at a claim without a lease (seconds): its accept stands."""


def pause_s(record: TrackedJob) -> float:
    """Return the time from one renewal to the next (seconds)."""
    if record.job.lease_s is None:
        return _UNLEASED_S
    return min(max(record.job.lease_s / _RENEWALS, _SHORTEST_S), LONGEST_S)


async def renew(tracking: Tracking, engine: Engine, record: TrackedJob) -> None:
    """Renew the permission of a running job's attempt, if the endpoint has agreed within its lease."""
    attempt, left_s = record.attempt, tracking.fence.left_s(record)
    if attempt is None or attempt.identity is None or left_s <= 0:
        return
    folder = tracking.runs.folder(record.run_id).attempt(attempt.number)
    # One that can't be stored is tried again; the one before expires.
    with suppress(RunError):
        await engine.permit(attempt.identity, folder, left_s)
