"""What can be told of an event by its name and action alone: that nothing can want it.

GitHub's list of deliveries says no more than that, and each payload costs a call.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dispatchd.hub.github.matching import is_for, mismatch_of_name, why_none
from dispatchd.hub.github.settings import GithubSettings

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
            unnamed = not action and any(is_for(rule, name) for rule in settings.rules)
            return "" if unnamed or not all(why.values()) else why_none(name, why)
