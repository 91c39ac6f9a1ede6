"""Permissions and events that an App needs for a configuration, and these alone. Pure.

Sources, for each row: GitHub docs, "Webhook events and payloads" (the permission of an event) and "Permissions
required for GitHub Apps" (that of a call). Permissions are called as in the API (schema `app-permissions`).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.hub.config.github import PULL_REQUEST, GithubSettings, Rule, Subject
from dispatchd.hub.domain.event_kinds import COMMENT_EVENTS, NAMES_A_REF
from dispatchd.hub.github.api.credentials import WRITE

READ: Final = "read"
_ORDER: Final = (READ, WRITE, "admin")

CHECKS: Final = "checks"

_EVENTS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "actions": ("workflow_job", "workflow_run"),
        "administration": (
            *("branch_protection_configuration", "branch_protection_rule"),
            *("repository_ruleset", "security_and_analysis"),
        ),
        CHECKS: ("check_run", "check_suite"),
        "contents": (
            *("commit_comment", "create", "delete", "fork", "gollum", "push"),
            *("release", "repository_dispatch", "workflow_dispatch"),
        ),
        "deployments": (
            *("deploy_key", "deployment", "deployment_protection_rule"),
            *("deployment_review", "deployment_status"),
        ),
        "discussions": ("discussion", "discussion_comment"),
        # For a milestone pull_requests is enough, too.
        "issues": (
            *("issue_comment", "issue_dependencies", "issues", "milestone"),
            "sub_issues",
        ),
        "members": ("member", "team_add"),
        "merge_queues": ("merge_group",),
        "metadata": ("label", "public", "repository", "star", "watch"),
        "packages": ("package", "registry_package"),
        "pages": ("page_build",),
        "pull_requests": (
            *(PULL_REQUEST, "pull_request_review", "pull_request_review_comment"),
            "pull_request_review_thread",
        ),
        "secret_scanning_alerts": (
            *("secret_scanning_alert", "secret_scanning_alert_location"),
            "secret_scanning_scan",
        ),
        "security_events": ("code_scanning_alert",),
        "statuses": ("status",),
        "vulnerability_alerts": ("dependabot_alert",),
    }
)
"""Permission -> events about a repository to which it lets an App subscribe, with `read`."""

PERMISSION_OF: Final[Mapping[str, str]] = MappingProxyType(
    {event: name for name, events in _EVENTS_OF.items() for event in events}
)
"""Event -> the permission that it needs."""

_WITHOUT_REPOSITORY: Final = (
    *("custom_property", "custom_property_values", "github_app_authorization"),
    *("installation", "installation_repositories", "installation_target"),
    *("marketplace_purchase", "membership", "meta", "org_block", "organization"),
    *("personal_access_token_request", "ping", "project", "project_card"),
    *("project_column", "projects_v2", "projects_v2_item"),
    *("projects_v2_status_update", "repository_advisory", "repository_import"),
    *("repository_vulnerability_alert", "security_advisory", "sponsorship", "team"),
)
"""Events that aren't about a repository, come without a subscription, or are not sent to Apps for its code."""

KNOWN_EVENTS: Final = frozenset({*PERMISSION_OF, *_WITHOUT_REPOSITORY})
"""Events of GitHub that this release knows."""

OF_A_COMMIT: Final = frozenset(
    {
        *(PULL_REQUEST, "pull_request_review", "pull_request_review_thread"),
        *("push", "merge_group", "workflow_run", "status"),
        *("deployment", "deployment_review", "deployment_status"),
        *("deployment_protection_rule", *NAMES_A_REF),
    }
)
"""Events whose jobs are about a commit (protocol/github_event.py), on which a check can be shown."""


@frozen(kw_only=True)
class Need:
    """A permission, and perhaps an event, that a part of the configuration needs."""

    why: str
    """Part of the configuration, in words."""
    permission: str
    access: str
    """Access to it: `read` or `write`."""
    event: str = ""
    """Event that the App has to subscribe to for it."""


def needs(settings: GithubSettings) -> Iterator[Need]:
    """Yield all needs of a configuration; the same one may come more than once."""
    yield Need(why="every App has it", permission="metadata", access=READ)
    if shows_checks(settings):
        yield Need(why="checks", permission=CHECKS, access=WRITE)
        for event in _EVENTS_OF[CHECKS]:
            yield _of_event("the buttons of checks", event, WRITE)
    for rule in settings.rules:
        yield from _of_rule(rule)
    yield from _of_commands(settings.rules)
    yield from _of_runs("run_permissions", settings.run_permissions)
    for rule in settings.rules:
        why = f"rule {rule.name}: run_permissions"
        yield from _of_runs(why, rule.run_permissions or {})


def permissions(settings: GithubSettings) -> dict[str, str]:
    """Return the least permissions that are enough: permission -> `read` or `write`, by name."""
    least: dict[str, str] = {}
    for need in sorted(needs(settings), key=lambda need: need.permission):
        if not covers(least.get(need.permission, ""), need.access):
            least[need.permission] = need.access
    return least


def events(settings: GithubSettings) -> list[str]:
    """Return the events that have to be subscribed to, by name."""
    return sorted({need.event for need in needs(settings) if need.event})


def covers(held: str, needed: str) -> bool:
    """Return whether an access (empty for none) is enough."""
    return held in _ORDER and _ORDER.index(held) >= _ORDER.index(needed)


def shows_checks(settings: GithubSettings) -> bool:
    """Return whether a job of these rules may be about a commit, and so have a check."""
    return any(
        OF_A_COMMIT & set(rule.events)
        or (rule.command and rule.on is Subject.PULL_REQUEST)
        for rule in settings.rules
    )


def _of_rule(rule: Rule) -> Iterator[Need]:
    for event in rule.events:
        if event in PERMISSION_OF:
            yield _of_event(f"rule {rule.name}", event, READ)
        if event in NAMES_A_REF:
            why = f"rule {rule.name}: the commit of a ref"
            yield Need(why=why, permission="contents", access=READ)


def _of_runs(why: str, granted: Mapping[str, str]) -> Iterator[Need]:
    for permission, access in sorted(granted.items()):
        yield Need(why=why, permission=permission, access=access)


def _of_commands(rules: tuple[Rule, ...]) -> Iterator[Need]:
    # `/run` without a name and `/cancel` also apply to jobs that an event has started.
    on_pulls = any(_takes(rule, PULL_REQUEST, Subject.PULL_REQUEST) for rule in rules)
    on_issues = any(_takes(rule, "issues", Subject.ISSUE) for rule in rules)
    if on_pulls or on_issues:
        yield _of_event("commands in comments", "issue_comment", READ)
    if on_issues:
        why = "answers to commands under issues"
        yield Need(why=why, permission="issues", access=WRITE)
    if on_pulls:
        for event in COMMENT_EVENTS:
            if event != "issue_comment":
                yield _of_event("commands in reviews", event, READ)
        why = "the commit of a pull request that a command means"
        yield Need(why=why, permission="pull_requests", access=READ)
        why = "answers to commands under pull requests"
        yield Need(why=why, permission="pull_requests", access=WRITE)


def _takes(rule: Rule, event: str, subject: Subject) -> bool:
    return event in rule.events or (bool(rule.command) and rule.on is subject)


def _of_event(why: str, event: str, access: str) -> Need:
    permission = PERMISSION_OF[event]
    return Need(why=why, permission=permission, access=access, event=event)
