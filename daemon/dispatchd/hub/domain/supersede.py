"""Effects of a new job on others: a cancel job ends them, a newer commit supersedes them. Pure."""

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from dispatchd.hub.domain.claim_rules import cancel, ended_here, supersede
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.model import HubJob, Submission
from dispatchd.hub.domain.transitions import Event
from dispatchd.protocol.outcome import FailureCause

_SUPERSEDING: Final = (
    *("pull_request", "pull_request_target", "push"),
    "merge_request",
)
"""Events of a newer commit, GitLab's included; a comment or a label on the same pull request supersedes nothing."""

_MOST_NAMED: Final = 5
"""Most jobs that a cancel job's summary names (count)."""


@frozen(kw_only=True)
class Submitted:
    """A new job, and the other jobs as it changes them."""

    job: HubJob
    others: Sequence[HubJob]


def may_supersede(document: JobDocument) -> bool:
    """Return whether a job is for a new commit of a pull request, so that it may supersede older jobs of it."""
    return bool(document.pull_request) and document.event in _SUPERSEDING


def is_same_repository(one: JobDocument, other: JobDocument) -> bool:
    """Return whether two jobs are of one repository: that is its id, and its name where one of them has no id.

    A repository may be renamed or transferred, and another one be made under its old name. One at GitHub is never that
    of a webhook, whose sender may have one of the same name.
    """
    if one.repository_id and other.repository_id:
        return one.repository_id == other.repository_id
    at_github = bool(one.repository_id or other.repository_id)
    if at_github and (one.is_of_a_webhook or other.is_of_a_webhook):
        return False
    return one.repository == other.repository


def means(job: HubJob, submission: Submission, other: HubJob) -> bool:
    """Return whether a new job changes another one (`after_submit`)."""
    if job.urgent:
        return _is_meant(submission.document, other)
    return _is_older(submission, other)


def after_submit(
    job: HubJob, submission: Submission, others: Sequence[HubJob], *, now: float
) -> Submitted:
    """Return a new job, and those of the others that are changed by it.

    A cancel job ends the jobs that no machine has. If machines have others of its targets, the machine with the newest
    one gets the cancel job, and each machine gets the cancellation of its own with its next heartbeat.
    """
    if not job.urgent:
        summary = f"Superseded by the job {job.id}, which is for a newer commit."
        meant = [other for other in others if _is_older(submission, other)]
        others = [supersede(other, summary, now=now) for other in meant]
        return Submitted(job=job, others=others)
    meant = [other for other in others if _is_meant(submission.document, other)]
    changed = [cancel(other, now=now) for other in meant]
    held = [other for other in changed if other.cancel_requested]
    if held:
        newest = max(held, key=lambda other: other.claimed_at)
        return Submitted(job=evolve(job, only_machine=newest.machine), others=changed)
    if changed:
        summary = f"{cancelled(changed)}. Nothing had begun."
        job = ended_here(job, Event.CARRIED_OUT, summary, "", now=now)
    return Submitted(job=job, others=changed)


def after_targets(
    job: HubJob, unended: Sequence[HubJob], aborted: Sequence[HubJob], *, now: float
) -> HubJob:
    """Return a cancel job that waits for a machine; as ended, once all its targets have ended.

    Args:
        job: The cancel job.
        unended: The unfinished jobs that are to be cancelled.
        aborted: The jobs that were to be cancelled and ended as aborted since the cancel job came.
        now: The time (seconds since the epoch).
    """
    if any(_is_meant(job.document, target) for target in unended):
        return job
    ended = [target for target in aborted if _is_meant(job.document, target)]
    if ended:
        summary = f"{cancelled(ended)}."
        return ended_here(job, Event.CARRIED_OUT, summary, "", now=now)
    summary = "Nothing is left to cancel: what it means had ended by itself."
    cause = FailureCause.NO_TARGET
    return ended_here(job, Event.HAD_NO_TARGET, summary, cause, now=now)


def cancelled(jobs: Sequence[HubJob]) -> str:
    """Return what a cancel has ended, in words."""
    named = ", ".join(job.id for job in jobs[:_MOST_NAMED])
    more = len(jobs) - _MOST_NAMED
    if len(jobs) == 1:
        return f"Cancelled the job {named}"
    return f"Cancelled {len(jobs)} jobs: {named}" + (
        f" and {more} more" if more > 0 else ""
    )


def _is_meant(cancel: JobDocument, job: HubJob) -> bool:
    """Return whether a cancel job means another job; the same rule as on the machine."""
    if job.urgent:
        return False
    if cancel.target:
        return cancel.target in (job.run_id, job.id)
    return is_same_repository(cancel, job.document) and (
        (cancel.pull_request, cancel.workflow)
        == (job.document.pull_request, job.document.workflow)
    )


def _is_older(submission: Submission, job: HubJob) -> bool:
    """Return whether a queued job of the same workflow is for an older commit of the same pull request.

    An event that comes late, for example one that was missed and fetched afterwards, supersedes nothing newer. GitHub
    vouches for a job of an event, so only another event supersedes it.
    """
    newer, older = submission.document, job.document
    return (
        is_same_repository(newer, older)
        and _line(newer) == _line(older)
        and newer.sha != older.sha
        and may_supersede(older)
        and (submission.by_event or not job.by_event)
        and not (submission.event_at and submission.event_at < job.event_at)
    )


def _line(document: JobDocument) -> tuple[int, str, str, str]:
    """Return what the jobs of one pull request have in common of which a newer commit supersedes the older ones."""
    return document.pull_request, document.workflow, document.event, document.rule
