"""Early filter of events: those that no rule can want, by name and action alone.

GitHub's list of deliveries has these alone, and each payload costs a call.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.routing.matching import is_for, mismatch_of_name, why_none

NEW: Final[Mapping[str, str]] = MappingProxyType(
    {
        "issue_comment": "created",
        "pull_request_review_comment": "created",
        "pull_request_review": "submitted",
    }
)
"""Event -> action that means a new comment."""

AGAIN: Final = "rerequested"
PRESSED: Final = "requested_action"
"""Actions of a check run: a re-run, or one of its buttons."""

PING: Final = "GitHub asks whether this hub is there; it is"
OF_A_CHECK: Final = "it only says what became of a check"
OF_CHECKS: Final = "it only says what became of checks"


def idle(name: str, action: str, settings: GithubSettings) -> str:
    """Return the reason why no event with a name and action asks for anything; empty if one may.

    `routing.route` ignores every event that is refused here, whatever its payload. The list may leave out the action;
    the name alone decides then.
    """
    match name:
        case "ping":
            return PING
        case "check_run":
            return "" if action in ("", AGAIN, PRESSED) else OF_A_CHECK
        case "check_suite":
            return "" if action in ("", AGAIN) else OF_CHECKS
        case _ if name in NEW and action in ("", NEW[name]):
            # It may contain a command.
            return ""
        case _:
            why = {
                rule.name: mismatch_of_name(rule, name, action)
                for rule in settings.rules
            }
            unnamed = not action and any(is_for(rule, name) for rule in settings.rules)
            return "" if unnamed or not all(why.values()) else why_none(name, why)
