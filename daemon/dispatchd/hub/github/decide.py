"""What becomes of a received job once GitHub has been asked: pure, with GitHub's answers as arguments."""

from collections.abc import Mapping
from typing import Final

from attrs import evolve, frozen

from dispatchd.domain.job import Json
from dispatchd.domain.payload import text
from dispatchd.hub.github.event import GithubEvent, read_event
from dispatchd.hub.github.matching import is_untrusted, mismatch_of_code
from dispatchd.hub.github.settings import Permission, Rule

_LADDER: Final = tuple(Permission)


@frozen(kw_only=True)
class Free:
    """The job may be handed out, with what is known of it by now."""

    document: dict[str, Json]


@frozen(kw_only=True)
class End:
    """It may not: whoever asked isn't allowed to, or what they asked for can't be."""

    reason: str
    is_denied: bool = False
    """Whether nobody knows that who asked may: a stranger gets no words."""


Decision = Free | End


def may(actual: str, needed: Permission) -> bool:
    """Return whether a permission (GitHub's role name) is enough; a role that GitHub doesn't have isn't."""
    held = [each for each in _LADDER if each.value == actual]
    return bool(held) and _LADDER.index(held[0]) >= _LADDER.index(needed)


def denied(event: GithubEvent, actual: str, needed: Permission) -> End:
    """Return the end of what somebody asked for who isn't allowed to."""
    found = f"{event.actor} for {event.repository} is {actual or 'none'}"
    reason = f"the permission of {found}, and {needed.value} is needed"
    return End(reason=reason, is_denied=True)


def needed_for(rule: Rule | None, *, from_fork: bool) -> Permission:
    """Return what is needed to give a command; for None, to cancel."""
    if rule is None:
        return Permission.WRITE
    if from_fork:
        return max(rule.permission, Permission.WRITE, key=_LADDER.index)
    return rule.permission


def decide(
    rule: Rule,
    name: str,
    payload: Mapping[str, Json],
    document: dict[str, Json],
    *,
    pull: Json,
    permission: str,
) -> Decision:
    """Decide about a command that wants a rule's job.

    Args:
        rule: The rule.
        name: The event that has brought the command.
        payload: Its payload.
        document: The job's fields so far; its `sha` is the one that the command has named, or absent.
        pull: The pull request as it is now, as GitHub's API has it; None for a command under an issue.
        permission: What whoever gave the command may do to the repository (GitHub's role name).
    """
    event = read_event(
        name, {**payload, "pull_request": pull} if pull else dict(payload)
    )
    # Who wants it once more isn't who has written the comment.
    event = evolve(event, actor=text(document, "actor_login") or event.actor)
    needed = needed_for(rule, from_fork=event.from_fork)
    if not may(permission, needed):
        return denied(event, permission, needed)
    if pull is None:
        if document.get("sha"):
            # GitHub finds the commits of every fork in the repository itself.
            return End(reason="a command under an issue names no commit")
        return Free(document=document)
    obstacle = _obstacle(rule, event, pull, str(document.get("sha") or ""))
    if obstacle:
        return End(reason=obstacle)
    head: dict[str, Json] = {"sha": event.sha, "ref": event.ref}
    held: dict[str, Json] = {"from_fork": True} if is_untrusted(rule, event) else {}
    return Free(document={**document, **head, **held})


def _obstacle(rule: Rule, event: GithubEvent, pull: Json, sha: str) -> str:
    """Return why somebody who may give the command doesn't get the job, or an empty string."""
    if text(pull, "state") != "open":
        return f"pull request {event.pull_request} is not open"
    reason = mismatch_of_code(rule, event)
    if reason:
        return f"rule {rule.name}: {reason}"
    if event.from_fork and not sha:
        return "its code comes from a fork: name the full SHA of the commit that you have read"
    if sha and sha != event.sha:
        return f"{sha} is not the newest commit of pull request {event.pull_request} (any more)"
    if not event.sha:
        return f"GitHub names no commit for pull request {event.pull_request}"
    return ""
