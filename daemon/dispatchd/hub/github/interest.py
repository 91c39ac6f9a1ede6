"""What can be told of an event by its name and action alone: which rules may want it, and that nothing can.

GitHub's list of deliveries says no more than that, and each payload costs a call.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dispatchd.hub.github.settings import PULL_REQUEST, GithubSettings, Rule

NEW: Final[Mapping[str, str]] = MappingProxyType(
    {
        "issue_comment": "created",
        "pull_request_review_comment": "created",
        "pull_request_review": "submitted",
    }
)
"""The action of a comment that hasn't been there before, by its event."""

AGAIN: Final = "rerequested"
PRESSED: Final = "requested_action"
"""What somebody wants of a check run: it once more, or what one of its buttons says."""

PING: Final = "GitHub asks whether this hub is there; it is"
OF_A_CHECK: Final = "it only says what became of a check"
OF_CHECKS: Final = "it only says what became of checks"

_USUAL_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        PULL_REQUEST: ("opened", "synchronize", "reopened", "ready_for_review"),
        "merge_group": ("checks_requested",),
        "pull_request_review": ("submitted",),
        "release": ("published",),
        "workflow_run": ("completed",),
    }
)
"""The actions that count where a rule names none; of any other event all do."""


def idle(name: str, action: str, settings: GithubSettings) -> str:
    """Return why no event of a name and action asks for anything, or an empty string where one may.

    What is refused here `routing.route` refuses as well, whatever else the event says. Without an action, which
    the list may leave out, its name alone decides.
    """
    match name:
        case "ping":
            return PING
        case "check_run":
            return "" if action in ("", AGAIN, PRESSED) else OF_A_CHECK
        case "check_suite":
            return "" if action in ("", AGAIN) else OF_CHECKS
        case _ if name in NEW and action in ("", NEW[name]):
            # It may hold a command.
            return ""
        case _:
            why = {
                rule.name: mismatch_of_name(rule, name, action)
                for rule in settings.rules
            }
            unnamed = not action and any(_names(rule, name) for rule in settings.rules)
            return "" if unnamed or not all(why.values()) else why_none(name, why)


def mismatch_of_name(rule: Rule, name: str, action: str) -> str:
    """Return why a rule doesn't want events of a name and action, or an empty string."""
    if not _names(rule, name):
        return _other(name)
    actions = _actions(rule, name)
    if actions and action not in actions:
        return f"the action {action or '(none)'} isn't one of {', '.join(actions)}"
    return ""


def why_none(name: str, why: Mapping[str, str]) -> str:
    """Return in words why no rule wants an event; `why` has each rule's name and reason."""
    near = [
        f"{rule}: {reason}" for rule, reason in why.items() if reason != _other(name)
    ]
    return "; ".join(near) or f"no rule is for the event {name}"


def _names(rule: Rule, name: str) -> bool:
    return not rule.command and name in rule.events


def _other(name: str) -> str:
    return f"it isn't for the event {name}"


def _actions(rule: Rule, name: str) -> tuple[str, ...]:
    if rule.actions:
        return rule.actions
    usual = _USUAL_ACTIONS.get(name, ())
    return (*usual, "labeled") if rule.labels and name == PULL_REQUEST else usual
