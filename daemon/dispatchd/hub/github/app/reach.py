"""Comparison of the App's installations and deliveries with the configuration. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Final

from dispatchd.hub.config.github import GithubSettings, Ingest, Rule
from dispatchd.hub.github.api.client import Document
from dispatchd.hub.github.app.findings import access_of, is_wild, lacking, settings_page
from dispatchd.hub.github.app.needs import covers, permissions
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.json_path import number, text

_NAMED: Final = 3
"""Most failed deliveries that a finding names (count)."""

_WHY_FAILED: Final[Mapping[int, str]] = {
    0: "nobody answered",
    HTTPStatus.UNAUTHORIZED: "GitHub signs with a secret that webhook_secret_files doesn't have",
    HTTPStatus.NOT_FOUND: "no hub that takes webhooks is at that address",
}


def of_installations(
    settings: GithubSettings, app: Document, installations: Sequence[Document]
) -> Iterator[Finding]:
    """Yield the findings about the App's installations, with what their owners have to do."""
    if not installations:
        page = text(app, "html_url") or settings_page(settings, app)
        message = f"nobody has installed the App: {page}/installations/new"
        yield Finding("installations", Level.FAILED, message)
    ids = {number(installation, "id") for installation in installations}
    for gone in sorted(set(settings.installations) - ids):
        message = f"github.installations has {gone}, which the App has not (any more)"
        yield Finding("installations", Level.FAILED, message)
    for installation in installations:
        yield _of_installation(settings, app, installation)
    yield from _of_owners(settings.rules, installations)


def _of_installation(
    settings: GithubSettings, app: Document, installation: Document
) -> Finding:
    found_id = number(installation, "id")
    name = f"{found_id} ({text(installation, 'account', 'login') or '?'})"
    if settings.installations and found_id not in settings.installations:
        message = f"{name} is none of github.installations, so nothing of it counts"
        return Finding("installations", Level.OK, message)
    page = text(installation, "html_url")
    if installation.get("suspended_at"):
        message = f"{name} is suspended: an owner has to put it back at {page}"
        return Finding("installations", Level.WARNING, message)
    needed, held = permissions(settings), access_of(app)
    granted = {name: needed[name] for name in needed if name in held}
    missing = [
        f"{permission}: {needed[permission]}"
        for permission in lacking(granted, access_of(installation))
        if covers(held[permission], needed[permission])
    ]
    if missing:
        message = f"{name} has not accepted {', '.join(missing)} yet: an owner has to at {page}"
        return Finding("installations", Level.FAILED, message)
    which = text(installation, "repository_selection") or "?"
    return Finding("installations", Level.OK, f"{name}, {which} repositories")


def _of_owners(
    rules: tuple[Rule, ...], installations: Sequence[Document]
) -> Iterator[Finding]:
    """Yield the patterns of repositories whose owner has not installed the App."""
    owners = [
        text(installation, "account", "login").lower() for installation in installations
    ]
    for rule in rules if owners else ():
        for pattern in rule.repositories:
            owner = pattern.lower().partition("/")[0]
            if is_wild(pattern) and not any(
                fnmatchcase(login, owner) for login in owners
            ):
                message = f"rule {rule.name}: nobody whom {pattern} means has installed the App"
                yield Finding("installations", Level.WARNING, message)


def of_deliveries(
    settings: GithubSettings, app: Document, items: Sequence[Document]
) -> Finding:
    """Return the finding about the newest deliveries; `items` are newest first."""
    if not items:
        message = f"none of the last {settings.retention_days:g} days: is the webhook Active? {settings_page(settings, app)} says so, the API doesn't"
        return Finding("deliveries", Level.WARNING, message)
    newest: dict[str, Document] = {}
    for item in items:
        # Newest first: the first attempt found is the newest of its delivery.
        newest.setdefault(text(item, "guid"), item)
    bad = [delivery for delivery in newest.values() if not _is_taken(delivery)]
    last = f"the newest is of {text(items[0], 'delivered_at')}"
    if not bad:
        message = f"{len(newest)} of {len(newest)} were taken; {last}"
        return Finding("deliveries", Level.OK, message)
    count = f"{len(bad)} of the newest {len(newest)} were not taken"
    if settings.ingest is Ingest.POLL:
        message = f"{count} at the webhook's address, which is no matter for a hub that polls; {last}"
        return Finding("deliveries", Level.OK, message)
    named = "; ".join(_failed(delivery) for delivery in bad[:_NAMED])
    message = f"{count}: {named}; once that is mended: dispatchd hub github redeliver"
    return Finding("deliveries", Level.WARNING, message)


def _is_taken(item: Document) -> bool:
    code = number(item, "status_code") or 0
    return HTTPStatus.OK <= code < HTTPStatus.BAD_REQUEST


def _failed(item: Document) -> str:
    code = number(item, "status_code") or 0
    event = ".".join(filter(None, (text(item, "event"), text(item, "action"))))
    why = _WHY_FAILED.get(code, text(item, "status"))
    return f"{code} {event} {text(item, 'guid')} ({why})"
