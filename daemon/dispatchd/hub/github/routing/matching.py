"""Matching of events with rules, with the reason where one doesn't match. Pure."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from dispatchd.hub.config.github import MERGE_GROUP, PULL_REQUEST, Forks, Rule
from dispatchd.hub.github.event import GithubEvent

_USUAL_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        PULL_REQUEST: ("opened", "synchronize", "reopened", "ready_for_review"),
        MERGE_GROUP: ("checks_requested",),
        "pull_request_review": ("submitted",),
        "release": ("published",),
        "workflow_run": ("completed",),
    }
)
"""Default actions of a rule that names none; of any other event all actions match."""


def mismatch(rule: Rule, event: GithubEvent) -> str:
    """Return the reason why a rule doesn't match an event; empty if it does."""
    return (
        mismatch_of_name(rule, event.name, event.action)
        or mismatch_of_repository(rule, event)
        or _mismatch_of_actor(rule, event)
        or mismatch_of_code(rule, event)
    )


def mismatch_of_name(rule: Rule, name: str, action: str) -> str:
    """Return the reason why a rule doesn't match events of a name and action; empty if it does."""
    if not is_for(rule, name):
        return _not_for(name)
    actions = _actions(rule, name)
    if actions and action not in actions:
        return f"the action {action or '(none)'} isn't one of {', '.join(actions)}"
    return ""


def is_for(rule: Rule, name: str) -> bool:
    """Return whether a rule is for events of a name."""
    return not rule.command and name in rule.events


def why_none(name: str, why: Mapping[str, str]) -> str:
    """Return the reason why no rule matches an event, in words; `why` has each rule's name and reason."""
    near = [
        f"{rule}: {reason}" for rule, reason in why.items() if reason != _not_for(name)
    ]
    return "; ".join(near) or f"no rule is for the event {name}"


def mismatch_of_code(rule: Rule, event: GithubEvent) -> str:
    """Return the reason why a rule doesn't match the code or subject of an event, whatever the action; empty if it does."""
    ref = event.base_ref or event.ref
    if rule.refs and not any(_fits(form, rule.refs) for form in (ref, _short(ref))):
        return f"the ref {ref or '(none)'} isn't one of {', '.join(rule.refs)}"
    if rule.labels and not any(_fits(label, rule.labels) for label in event.labels):
        return f"it has none of the labels {', '.join(rule.labels)}"
    if event.is_draft and not rule.drafts:
        return "it is a draft"
    if event.from_fork and rule.forks is Forks.NEVER:
        return "its code comes from a fork"
    return ""


def mismatch_of_repository(rule: Rule, event: GithubEvent) -> str:
    """Return the reason why a rule doesn't match an event's repository; empty if it does."""
    # GitHub accepts names in any case, and sends them in their owner's spelling.
    patterns = tuple(pattern.lower() for pattern in rule.repositories)
    if _fits(event.repository.lower(), patterns):
        return ""
    return f"{event.repository} isn't one of {', '.join(rule.repositories)}"


def _mismatch_of_actor(rule: Rule, event: GithubEvent) -> str:
    # GitHub's own bot requests the checks of a merge group; without an answer the merge queue hangs.
    if event.actor_is_bot and not rule.bots and event.name != MERGE_GROUP:
        return f"{event.actor} is a bot"
    return ""


def is_untrusted(rule: Rule, event: GithubEvent) -> bool:
    """Return whether a rule's job of an event gets no secrets, because it runs code of outsiders."""
    of_updates = event.by_dependabot and not rule.dependabot_secrets
    return event.from_fork or of_updates


def _not_for(name: str) -> str:
    return f"it isn't for the event {name}"


def _actions(rule: Rule, event: str) -> tuple[str, ...]:
    if rule.actions:
        return rule.actions
    usual = _USUAL_ACTIONS.get(event, ())
    return (*usual, "labeled") if rule.labels and event == PULL_REQUEST else usual


def _fits(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _short(ref: str) -> str:
    return ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
