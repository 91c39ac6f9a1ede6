"""Decision about a received job. Pure: GitHub's answers are arguments."""

from collections.abc import Mapping
from typing import Final

from attrs import evolve, frozen

from dispatchd.hub.config.github import Permission, Rule
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.github.event import GithubEvent, read_event
from dispatchd.hub.github.routing.matching import is_untrusted, mismatch_of_code
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import text

_LADDER: Final = tuple(Permission)


@frozen(kw_only=True)
class Free:
    """Decision that the job may be dispatched; `document` has its fields, now with those from GitHub."""

    document: JobDocument


@frozen(kw_only=True)
class End:
    """Decision that the job ends: the author of the command lacks the permission, or the command can't be executed."""

    reason: str
    is_denied: bool = False
    """True if the author's permission isn't known to be enough. The reply has no words then."""


Decision = Free | End


def may(actual: str, needed: Permission) -> bool:
    """Return whether a permission (GitHub's role name) is enough; an unknown role isn't."""
    held = [permission for permission in _LADDER if permission.value == actual]
    return bool(held) and _LADDER.index(held[0]) >= _LADDER.index(needed)


def denied(event: GithubEvent, actual: str, needed: Permission) -> End:
    """Return the end of a command whose author lacks the permission."""
    held = f"{event.actor} for {event.repository} is {actual or 'none'}"
    reason = f"the permission of {held}, and {needed.value} is needed"
    return End(reason=reason, is_denied=True)


def needed_for(rule: Rule | None, *, from_fork: bool) -> Permission:
    """Return the permission that a command of a rule needs; without a rule, that of a cancellation."""
    if rule is None:
        return Permission.WRITE
    if from_fork:
        return max(rule.permission, Permission.WRITE, key=_LADDER.index)
    return rule.permission


def decide(
    rule: Rule,
    name: str,
    payload: Mapping[str, Json],
    document: JobDocument,
    *,
    pull: Json,
    permission: str,
) -> Decision:
    """Decide about a command that wants a rule's job.

    Args:
        rule: The rule.
        name: The name of the command's event.
        payload: Its payload.
        document: The job's fields so far; its `sha` is the one that the command has named, or absent.
        pull: The pull request as it is now, as GitHub's API has it; None for a command under an issue.
        permission: The author's permission in the repository (GitHub's role name).
    """
    event = read_event(
        name, {**payload, "pull_request": pull} if pull else dict(payload)
    )
    # On a re-run the actor is the one who pressed the button, not the comment's author.
    event = evolve(event, actor=document.actor or event.actor)
    needed = needed_for(rule, from_fork=event.from_fork)
    if not may(permission, needed):
        return denied(event, permission, needed)
    if pull is None:
        if document.sha:
            # GitHub serves the commits of every fork from the repository itself, so the id could be a fork's.
            return End(reason="a command under an issue names no commit")
        return Free(document=document)
    blocked_reason = _blocked_reason(rule, event, pull, document.sha)
    if blocked_reason:
        return End(reason=blocked_reason)
    document = document.changed(sha=event.sha, ref=event.ref)
    if is_untrusted(rule, event):
        document = document.changed(from_fork=True)
    return Free(document=document)


def _blocked_reason(rule: Rule, event: GithubEvent, pull: Json, sha: str) -> str:
    """Return the reason why a permitted command gets no job; empty if it gets one."""
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
