"""Tracked jobs that a cancel job refers to (contracts/README.md, cancel jobs)."""

from collections.abc import Iterable

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict

ENDED = frozenset({Phase.FINISHING, Phase.HISTORY})


def targets(cancel: Job, tracked: Iterable[TrackedJob]) -> list[TrackedJob]:
    """Return the tracked jobs that a cancel job refers to, in the order given.

    If it names a run id, those with that id. If it names none, those of the same repository, pull request
    and workflow that have not ended or are cancelled: this job may have cancelled them before a kill.
    """
    others = [record for record in tracked if not record.job.is_cancel]
    if cancel.target_run_id:
        return [record for record in others if record.run_id == cancel.target_run_id]
    return [
        record
        for record in others
        if (record.phase not in ENDED or record.is_cancelled)
        and _same_purpose(cancel, record.job)
    ]


def verdict(cancel: Job, records: list[TrackedJob]) -> Verdict:
    """Return the end of a cancel job, given its targets as they stand after the cancel.

    A target that was already cancelled, such as by a heartbeat, counts as cancelled.
    """
    cancelled = [record.run_id for record in records if record.is_cancelled]
    if cancelled:
        return Verdict(
            outcome=Outcome.SUCCEEDED, summary=f"Cancelled {', '.join(cancelled)}."
        )
    if records:
        summary = f"Nothing to cancel: the run {records[0].run_id} has already ended."
    elif cancel.target_run_id:
        summary = f"Nothing to cancel: this machine has no run {cancel.target_run_id}."
    else:
        summary = f"Nothing to cancel: no unfinished run of {_purpose(cancel)} on this machine."
    return Verdict(
        outcome=Outcome.FAILED, cause=FailureCause.NO_TARGET, summary=summary
    )


def _same_purpose(cancel: Job, job: Job) -> bool:
    if cancel.repository_id and job.repository_id:
        # It may have been renamed, and another one be made under its old name.
        is_same = cancel.repository_id == job.repository_id
    else:
        is_same = cancel.repository == job.repository
    return is_same and (cancel.pull_request, cancel.workflow) == (
        job.pull_request,
        job.workflow,
    )


def _purpose(cancel: Job) -> str:
    pull_request = (
        ""
        if cancel.pull_request is None
        else f" for pull request {cancel.pull_request}"
    )
    return f"workflow {cancel.workflow or '(none)'} of {cancel.repository or '(no repository)'}{pull_request}"
