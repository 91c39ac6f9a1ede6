"""The fence before a process: has the endpoint said lately enough that the job is this machine's?

An accept is not believed for ever: once a lease is over, another machine may have run the job. See
contracts/README.md, the life of a job.
"""

from datetime import datetime

from attrs import frozen

from dispatchd.domain.job import TrackedJob


@frozen(kw_only=True)
class Word:
    """What the endpoint has answered to an accept or a heartbeat.

    `asked_at` is when the call was sent, by a clock that counts suspension; `holds` whether the job is still
    this machine's under that claim.
    """

    claim_token: str
    asked_at: datetime
    holds: bool


def may_start(record: TrackedJob, last: Word | None, now: datetime) -> bool:
    """Return whether a process of an accepted job may begin now; else the endpoint has to be asked first.

    Args:
        record: The job as it stands now.
        last: The endpoint's last word about the job since this daemon started; None if it has said nothing.
        now: The time, by the clock of `last`.
    """
    lease_s = record.job.lease_s
    if last is None:
        # The phase says that it was accepted; without a lease that stands.
        return lease_s is None
    if not last.holds or last.claim_token != record.job.claim_token:
        return False
    return lease_s is None or (now - last.asked_at).total_seconds() < lease_s
