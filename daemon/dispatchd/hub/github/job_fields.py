"""From an event and what it asks for to the fields of the job: pure, for the inbox and for `dispatchd hub route`."""

from dispatchd.domain.job import CANCEL, Json
from dispatchd.hub.github.event import GithubEvent
from dispatchd.hub.github.matching import is_untrusted
from dispatchd.hub.github.routing import Cancel, Run


def job_fields(
    event: GithubEvent, delivery_id: str, step: Run | Cancel
) -> dict[str, Json]:
    """Return what a job says, without its id and without what is empty.

    Args:
        event: The event.
        delivery_id: The delivery that has brought it (X-GitHub-Delivery).
        step: What it asks for.
    """
    found: dict[str, Json] = {
        "installation_id": event.installation,
        "repository_id": event.repository_id,
        "repository_name": event.repository,
        "event_name": event.name,
        "event_action": event.action,
        "delivery_id": delivery_id,
        "ref": event.ref,
        "sha": event.sha,
        "pull_request_number": event.pull_request,
        "issue_number": event.issue,
        "comment_id": event.comment_id,
        "actor_login": event.actor,
        **_own(event, step),
    }
    return {name: value for name, value in found.items() if value}


def _own(event: GithubEvent, step: Run | Cancel) -> dict[str, Json]:
    if isinstance(step, Cancel):
        return {"command": CANCEL}
    rule, command = step.rule, step.command
    fields: dict[str, Json] = {"binding_id": rule.name, "dag_name": rule.workflow}
    if command is None:
        fields["from_fork"] = is_untrusted(rule, event)
    else:
        # Which commit that is meant for, until GitHub has said which one it is.
        fields |= {"command": command.name, "sha": command.sha}
    return fields
