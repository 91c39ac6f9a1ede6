"""Result of a pull: a job, or nothing."""

from collections.abc import Mapping

from attrs import frozen

from dispatchd.agent.domain.workflow import Workflow
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import (
    CHOICES,
    LONGEST_NOTE,
    FailureCause,
    Outcome,
    Verdict,
    marked,
)


@frozen(kw_only=True)
class Delivery:
    """A job that the endpoint handed out.

    `payload` and `headers` are the exact JSON texts that came with it (`null` where none did).
    `problem` says, for a developer, how the job breaks the contract. It is empty if the job keeps it.
    `holds` is true where the endpoint says that it holds polls.
    """

    job: Job
    payload: str
    headers: str
    problem: str = ""
    holds: bool = False


@frozen(kw_only=True)
class NoJob:
    """A pull without a job.

    `held` is true where the endpoint kept the poll open as requested. `cut_after_s` is the time (seconds) after
    which something on the way closed it without an answer, or None. `ended_early` is true where the
    endpoint ended it before the time, because it has news of a job that this machine has.
    """

    held: bool
    cut_after_s: float | None = None
    ended_early: bool = False


@frozen(kw_only=True)
class Resolution:
    """A person's decision about a parked job, made at the endpoint.

    `parking` names the stay in `needs_attention` that it is about. `decision` is one of `CHOICES`, or a word of
    a newer endpoint. `by` is the name of the person, for the log alone.
    """

    parking: str
    decision: str
    note: str = ""
    by: str = ""

    @property
    def is_known(self) -> bool:
        """True if this release can carry it out."""
        return self.decision in CHOICES

    @property
    def verdict(self) -> Verdict | None:
        """Verdict of the job; None for another attempt."""
        # Without the name: others may read the summary than know who decides here.
        note = self.note.strip()[:LONGEST_NOTE]
        return marked(self.decision, "a person at the endpoint", note)


@frozen(kw_only=True)
class Beat:
    """The endpoint's answer to a heartbeat or an accept."""

    cancel_requested: bool = False
    watching: bool = False
    """True while somebody looks at the log of the job."""
    resolution: Resolution | None = None
    """Decision about the job, which is parked; None for none."""


@frozen(kw_only=True)
class LogAnswer:
    """The endpoint's answer to a chunk of a log: up to where it has the log of the attempt (bytes)."""

    offset: int
    watching: bool = False


@frozen(kw_only=True)
class Stored:
    """The endpoint's answer about an artifact: up to where it has the file (bytes), or why it doesn't take it."""

    offset: int
    whole: bool = False
    """True once it has all of the file, with the announced hash."""
    refused: str = ""


def rejection(
    delivery: Delivery, workflows: Mapping[str, Workflow], unfit: Mapping[str, str]
) -> Verdict | None:
    """Return the verdict of a job that can't be run on a machine with these workflows, or None if it can.

    Args:
        delivery: The job as the pull brought it.
        workflows: The configured workflows.
        unfit: Workflows that this machine can't run within their limits, each with the reason.
    """
    if delivery.problem:
        summary = (
            f"The job breaks the dispatch contract and was not run: {delivery.problem}."
        )
        return Verdict(
            outcome=Outcome.REJECTED, cause=FailureCause.INVALID_JOB, summary=summary
        )
    name = delivery.job.workflow
    if not delivery.job.is_cancel and name in unfit:
        return unfit_workflow(name, unfit[name])
    if delivery.job.is_cancel:
        return None
    if name not in workflows:
        return unknown_workflow(name)
    return foreign_repository(delivery.job, workflows[name])


def record_lost() -> Verdict:
    """Return the verdict of a job that has been started here, and whose record can't be read any more."""
    return Verdict(
        outcome=Outcome.FAILED,
        cause=FailureCause.LOST,
        summary="This machine has started the job before, and can't read its record any more (quarantine): how that run has ended,"
        " or whether it still runs, isn't known, so nothing was run again.",
    )


def foreign_repository(job: Job, workflow: Workflow) -> Verdict | None:
    """Return the verdict of a job whose repository its workflow doesn't serve, or None if it does."""
    if workflow.runs_for(job):
        return None
    named = (
        f"the repository {job.repository:.200}" if job.repository else "no repository"
    )
    summary = (
        f"The workflow {workflow.name!r} of this machine doesn't run for {named}, so the job can't be run;"
        " the machine's owner can add it to the workflow's repositories."
    )
    return Verdict(
        outcome=Outcome.REJECTED, cause=FailureCause.UNKNOWN_WORKFLOW, summary=summary
    )


def unfit_workflow(name: str, why: str) -> Verdict:
    """Return the verdict of a job whose workflow this machine can't run as its owner wants it."""
    summary = f"This machine doesn't run the workflow {name!r}: {why}."
    return Verdict(
        outcome=Outcome.REJECTED, cause=FailureCause.UNKNOWN_WORKFLOW, summary=summary
    )


def unknown_workflow(name: str) -> Verdict:
    """Return the verdict of a job whose workflow is not configured on this machine."""
    summary = f"This machine has no workflow called {name!r}, so the job can't be run; its owner can add it to the configuration."
    return Verdict(
        outcome=Outcome.REJECTED, cause=FailureCause.UNKNOWN_WORKFLOW, summary=summary
    )
