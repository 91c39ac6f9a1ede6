"""Comparison of the hub's App, as GitHub describes it, with what the configuration needs. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from dispatchd.hub.config.github import (
    PULL_REQUEST,
    GithubSettings,
    Ingest,
    Permission,
    Rule,
    Subject,
)
from dispatchd.hub.github.api.client import Document
from dispatchd.hub.github.api.credentials import WRITE
from dispatchd.hub.github.app.manifest import WEBHOOK_PATH, expected_url, website
from dispatchd.hub.github.app.needs import (
    CHECKS,
    KNOWN_EVENTS,
    Need,
    covers,
    events,
    needs,
    permissions,
)
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import text
from dispatchd.protocol.times import duration

_CLOCK_S: Final = 30.0
"""Largest difference of the clocks without a warning (seconds). A JWT is valid from 60 s before it was made (api/keys.py)."""

_STATUSES: Final = "statuses"
_MERGE_GROUP: Final = "merge_group"
_WILD: Final = "*?["


def of_clock(ahead_s: float) -> Finding:
    """Return the finding about the hub's clock; `ahead_s` is the lead of GitHub's (seconds)."""
    if abs(ahead_s) <= _CLOCK_S:
        return Finding("clock", Level.OK, "it is that of GitHub")
    which = "behind" if ahead_s > 0 else "ahead of"
    message = f"this machine's clock is {duration(abs(ahead_s))} {which} GitHub's: set it (timedatectl set-ntp true)"
    return Finding("clock", Level.WARNING, message)


def settings_page(settings: GithubSettings, app: Document) -> str:
    """Return the address of the App's settings, for its owner."""
    owner = (
        f"/organizations/{text(app, 'owner', 'login')}"
        if text(app, "owner", "type") == "Organization"
        else ""
    )
    return f"{website(settings.api_url)}{owner}/settings/apps/{text(app, 'slug')}"


def of_permissions(settings: GithubSettings, app: Document) -> Iterator[Finding]:
    """Yield the findings about the App's permissions: each missing one with its reason, and those that it doesn't need."""
    held, needed = access_of(app), permissions(settings)
    missing = lacking(needed, held)
    # Jobs show as commit statuses then.
    by_status = CHECKS in missing and covers(held.get(_STATUSES, ""), WRITE)
    for name in missing:
        why = _why(
            need
            for need in needs(settings)
            if need.permission == name and not covers(held.get(name, ""), need.access)
        )
        message = f"{name}: {needed[name]} is missing (for {why}): give it at {settings_page(settings, app)}/permissions"
        if name == CHECKS and by_status:
            message += "; until then there are commit statuses, without buttons"
            yield Finding("permissions", Level.WARNING, message)
        else:
            yield Finding("permissions", Level.FAILED, message)
    if not missing:
        message = ", ".join(f"{name}: {needed[name]}" for name in needed)
        yield Finding("permissions", Level.OK, message)
    more = [
        f"{name}: {access}"
        for name, access in sorted(held.items())
        if not covers(needed.get(name, ""), access)
        and not (name == _STATUSES and by_status)
    ]
    if more:
        message = f"more than needed, which can be taken away: {', '.join(more)}"
        yield Finding("permissions", Level.OK, message)


def of_events(settings: GithubSettings, app: Document) -> Iterator[Finding]:
    """Yield the findings about the App's events: each missing one with its reason, and those that it doesn't need."""
    needed = events(settings)
    # These come with the permission (GitHub docs, Webhook events and payloads: "are automatically subscribed").
    subscribed = _names(app.get("events")) | {"check_run", "check_suite"} & set(needed)
    missing = [event for event in needed if event not in subscribed]
    for name in missing:
        why = _why(need for need in needs(settings) if need.event == name)
        message = f"{name} is not subscribed to (for {why}): tick it at {settings_page(settings, app)}/permissions"
        yield Finding("events", Level.FAILED, message)
    if not missing:
        yield Finding("events", Level.OK, ", ".join(needed))
    more = sorted(subscribed - set(needed))
    if more:
        message = f"more than needed, which only cost deliveries: {', '.join(more)}"
        yield Finding("events", Level.OK, message)


def of_hook(
    settings: GithubSettings, app: Document, hook: Document
) -> Iterator[Finding]:
    """Yield the findings about the App's webhook."""
    url, page = text(hook, "url"), settings_page(settings, app)
    if not url:
        message = f"it has no address, so there are no deliveries: set one, and Active, at {page}"
        yield Finding("webhook", Level.FAILED, message)
        return
    if settings.ingest is Ingest.POLL:
        message = f"{url}, which nobody has to answer at: the hub polls"
        yield Finding("webhook", Level.OK, message)
        return
    expected = expected_url(settings)
    if expected and url != expected:
        message = f"it leads to {url}, and not to {expected} (github.public_url): change one of them; the App's is at {page}"
        yield Finding("webhook", Level.FAILED, message)
    elif not url.endswith(WEBHOOK_PATH):
        message = f"it leads to {url}, and the hub answers at {WEBHOOK_PATH} alone, unless a proxy changes that"
        yield Finding("webhook", Level.WARNING, message)
    else:
        yield Finding("webhook", Level.OK, f"it leads to {url}")
    if not hook.get("secret"):
        message = (
            f"it has no secret, so the hub refuses every delivery: set one at {page}"
        )
        yield Finding("webhook", Level.FAILED, message)
    if str(hook.get("insecure_ssl", "0")) == "1":
        message = f"GitHub doesn't verify the hub's certificate: enable SSL verification at {page}"
        yield Finding("webhook", Level.WARNING, message)


def of_rules(settings: GithubSettings) -> Iterator[Finding]:
    """Yield a warning for each doubtful rule."""
    warnings = [
        Finding("rules", Level.WARNING, f"rule {rule.name}: {message}")
        for rule in settings.rules
        for message in _oddities(rule, settings)
    ]
    yield from warnings
    if not warnings:
        yield Finding(
            "rules", Level.OK, ", ".join(rule.name for rule in settings.rules)
        )
    grouped = {
        pattern
        for rule in settings.rules
        if _MERGE_GROUP in rule.events
        for pattern in rule.repositories
    }
    for rule in settings.rules:
        if PULL_REQUEST in rule.events and not grouped & set(rule.repositories):
            message = f"rule {rule.name} is not for merge_group: where a merge queue requires its check, the queue would wait for ever"
            yield Finding("rules", Level.OK, message)


def _oddities(rule: Rule, settings: GithubSettings) -> Iterator[str]:
    for event in rule.events:
        if event not in KNOWN_EVENTS:
            yield f"this release knows no event {event}; if GitHub has it, subscribe to it by hand"
    for pattern in rule.repositories:
        if is_wild(pattern.partition("/")[0]) and not settings.installations:
            yield f"{pattern} is for every owner: whoever installs the App can use your machines, so name the owner or set github.installations"
    if (
        rule.on is Subject.PULL_REQUEST
        and rule.command
        and rule.permission
        in (
            Permission.READ,
            Permission.TRIAGE,
        )
    ):
        yield f"whoever has the permission {rule.permission.value} can run code that is not merged; in a public repository everybody has read"


def is_wild(pattern: str) -> bool:
    """Return whether a pattern may mean more than one name."""
    return any(character in pattern for character in _WILD)


def _why(unmet: Iterator[Need]) -> str:
    return ", ".join(dict.fromkeys(need.why for need in unmet))


def lacking(needed: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """Return the names of the permissions that are needed and not held."""
    return [
        name
        for name, access in needed.items()
        if not covers(held.get(name, ""), access)
    ]


def access_of(document: Document) -> dict[str, str]:
    """Return the permissions of an App or an installation, by name."""
    granted = document.get("permissions")
    pairs = granted.items() if isinstance(granted, dict) else ()
    return {name: access for name, access in pairs if isinstance(access, str)}


def _names(value: Json) -> set[str]:
    return (
        {name for name in value if isinstance(name, str)}
        if isinstance(value, list)
        else set()
    )
