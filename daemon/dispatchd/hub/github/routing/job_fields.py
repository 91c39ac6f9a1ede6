"""Fields of the job that an event asks for. Pure, for the inbox and for `dispatchd hub route`."""

from dispatchd.hub.github.event import GithubEvent
from dispatchd.hub.github.routing.matching import is_untrusted
from dispatchd.hub.github.routing.route import Cancel, Run
from dispatchd.protocol.job import CANCEL, Json


def job_fields(
    event: GithubEvent, delivery_id: str, step: Run | Cancel
) -> dict[str, Json]:
    """Return the fields of a job, without its id and without empty ones.

    Args:
        event: The event.
        delivery_id: The event's delivery (X-GitHub-Delivery).
        step: The step that it asks for.
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
        # The commit that the command names; GitHub's answer replaces it later.
        fields |= {"command": command.name, "sha": command.sha}
    return fields
