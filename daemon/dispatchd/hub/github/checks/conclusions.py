"""GitHub's view of a job: the one table from state and cause to check run and commit status.

Source: GitHub docs, "REST API endpoints for check runs" and "for commit statuses"; "About status checks": a check
that is neutral or skipped lets a required check pass, so a job that never ran is never published as one of these.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from dispatchd.hub.domain.claim_rules import LEASE_EXPIRED
from dispatchd.hub.domain.decisions.decision import stay_tag
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.protocol.outcome import FailureCause

QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"

TIMED_OUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        FailureCause.MAX_DURATION.value: "ran for longer than it may",
        FailureCause.INACTIVITY_TIMEOUT.value: "silent for longer than it may be",
        FailureCause.QUEUE_TIMEOUT.value: "waited for longer than it may",
    }
)
"""Causes that are limits of time, and what they mean."""

INFRASTRUCTURE: Final[Mapping[str, str]] = MappingProxyType(
    {
        FailureCause.LOST.value: "the process is gone and left no exit code",
        FailureCause.SPAWN.value: "the command could not be started",
        FailureCause.WORKSPACE.value: "the repository could not be laid out",
        LEASE_EXPIRED: "the machine was not heard of any more",
    }
)
"""Causes that are not the commit's fault, and what they mean."""


@frozen(kw_only=True)
class Standing:
    """State of a job for GitHub. `check_state` is the check run's status until the job ends, then its conclusion."""

    check_state: str
    status: str
    """State of the commit status."""
    title: str
    stay: str = ""
    """Stay in `needs_attention` that the check's buttons are for (`stay_tag`); empty for none."""

    @property
    def told(self) -> str:
        """State of the check once this is published (`Check.told`)."""
        return f"{self.check_state}#{self.stay}" if self.stay else self.check_state

    @property
    def is_conclusion(self) -> bool:
        """True if it completes a check run."""
        return is_conclusion(self.check_state)


def is_conclusion(check_state: str) -> bool:
    """Return whether a check run has been concluded (`Check.told`)."""
    return check_state not in ("", QUEUED, IN_PROGRESS)


_GOING_ON: Final[Mapping[State, Standing]] = MappingProxyType(
    {
        State.RECEIVED: Standing(
            check_state=QUEUED, status="pending", title="Received"
        ),
        State.QUEUED: Standing(check_state=QUEUED, status="pending", title="Queued"),
        State.CLAIMED: Standing(check_state=QUEUED, status="pending", title="Queued"),
        State.ACCEPTED: Standing(
            check_state=IN_PROGRESS, status="pending", title="Running"
        ),
        State.RUNNING: Standing(
            check_state=IN_PROGRESS, status="pending", title="Running"
        ),
        # A conclusion for GitHub, though the job hasn't ended: it blocks a merge, and shows that a person is needed.
        State.NEEDS_ATTENTION: Standing(
            check_state="action_required", status="pending", title="Needs attention"
        ),
    }
)

_ENDED: Final[Mapping[State, Standing]] = MappingProxyType(
    {
        State.SUCCEEDED: Standing(
            check_state="success", status="success", title="Succeeded"
        ),
        State.ABORTED: Standing(
            check_state="cancelled", status="error", title="Cancelled"
        ),
        State.SUPERSEDED: Standing(
            check_state="cancelled",
            status="error",
            title="Superseded by a newer commit",
        ),
        State.REJECTED: Standing(
            check_state="failure", status="error", title="Rejected"
        ),
        # Only where the job was published before; "skipped" would let a required check pass.
        State.IGNORED: Standing(
            check_state="cancelled", status="error", title="Not wanted"
        ),
    }
)

_PARTLY: Final[Mapping[str, str]] = MappingProxyType(
    {"neutral": "success", "success": "success", "failure": "failure"}
)
"""Configured conclusion of a partial success -> state of the commit status."""


def standing(job: HubJob, *, partially_succeeded: str) -> Standing:
    """Return the state of a job for GitHub.

    Args:
        job: The job.
        partially_succeeded: The conclusion of a partial success: `neutral`, `success` or `failure`.
    """
    if job.state is State.FAILED:
        return _failed(job.result_cause)
    if job.state is State.PARTIALLY_SUCCEEDED:
        return Standing(
            check_state=partially_succeeded,
            status=_PARTLY[partially_succeeded],
            title="Partially succeeded",
        )
    found = {**_GOING_ON, **_ENDED}[job.state]
    if job.state is State.NEEDS_ATTENTION and job.parked:
        return evolve(found, stay=stay_tag(job))
    return found


def _failed(cause: str) -> Standing:
    if cause in TIMED_OUT:
        title = f"Timed out: {TIMED_OUT[cause]}"
        return Standing(check_state="timed_out", status="failure", title=title)
    if cause in INFRASTRUCTURE:
        title = f"infrastructure: {INFRASTRUCTURE[cause]}"
        return Standing(check_state="failure", status="error", title=title)
    return Standing(check_state="failure", status="failure", title="Failed")
