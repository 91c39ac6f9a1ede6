"""Document of the job that an event asks for. Pure, for the inbox and for `dispatchd hub route`."""

from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.github.event import GithubEvent
from dispatchd.hub.github.routing.matching import is_untrusted
from dispatchd.hub.github.routing.route import Cancel, Resolve, Run
from dispatchd.protocol.job import CANCEL, Json


def job_fields(
    event: GithubEvent,
    delivery_id: str,
    step: Run | Cancel | Resolve,
    *,
    job_id: str = "",
) -> JobDocument:
    """Return the document of a job, without empty fields.

    Args:
        event: The event.
        delivery_id: The event's delivery (X-GitHub-Delivery).
        step: The step that it asks for.
        job_id: The job's id; empty for a job that nobody makes.
    """
    document = JobDocument.of(
        id=job_id,
        installation_id=event.installation,
        repository_id=event.repository_id,
        repository=event.repository,
        event=event.name,
        action=event.action,
        delivery_id=delivery_id,
        ref=event.ref,
        sha=event.sha,
        pull_request=event.pull_request,
        issue=event.issue,
        comment_id=event.comment_id,
        actor=event.actor,
        title=event.title,
    )
    if isinstance(step, Cancel):
        return document.changed(command=CANCEL).without_empty()
    if isinstance(step, Resolve):
        resolution: dict[str, Json] = {"as": step.choice, "note": step.note}
        return document.without_empty().resolving(resolution)
    rule, command = step.rule, step.command
    document = document.changed(rule=rule.name, workflow=rule.workflow)
    if command is not None:
        # The commit that the command names; GitHub's answer replaces it later.
        document = document.changed(command=command.name, sha=command.sha)
    elif is_untrusted(rule, event):
        document = document.changed(from_fork=True)
    return document.without_empty()
