"""Fence before a process: has the endpoint confirmed recently enough that this machine holds the job?

An accept expires with its lease: another machine may have run the job since. See
contracts/README.md, the life of a job.
"""

from datetime import datetime

from attrs import frozen

from dispatchd.agent.domain.job import TrackedJob


@frozen(kw_only=True)
class ClaimAnswer:
    """Answer of the endpoint to an accept or a heartbeat.

    `asked_at` is the time of the call, by a clock that counts suspension. `holds` is true if this machine
    still holds the job under that claim.
    """

    claim_token: str
    asked_at: datetime
    holds: bool


def may_start(record: TrackedJob, last: ClaimAnswer | None, now: datetime) -> bool:
    """Return whether a process of an accepted job may begin now. If not, the endpoint has to be asked first.

    Args:
        record: The job as it stands now.
        last: The endpoint's last answer about the job since this daemon started, or None.
        now: The time, by the clock of `last`.
    """
    lease_s = record.job.lease_s
    if last is None:
        # An accept without a lease doesn't expire. That of a newer claim may still be owed.
        return lease_s is None and record.is_claim_accepted
    if not last.holds or last.claim_token != record.job.claim_token:
        return False
    return lease_s is None or (now - last.asked_at).total_seconds() < lease_s
