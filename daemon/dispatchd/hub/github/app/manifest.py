"""Manifest of an App, from which GitHub makes the App (GitHub docs, Registering a GitHub App from a manifest). Pure."""

import json
import re
from collections.abc import Mapping
from html import escape
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from dispatchd.errors import UsageError
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.transport import in_path
from dispatchd.hub.github.app.needs import events, permissions
from dispatchd.protocol.job import Json

WEBHOOK_PATH: Final = "/webhooks/github"

_CALLBACK_PATH: Final = "/login/github/callback"
"""Path to which people come back from their login (`hub/web/login_page.py`)."""

LONGEST_NAME: Final = 34
"""Longest name of an App (characters; GitHub docs, Registering a GitHub App)."""

_OWNER: Final = re.compile(r"[\w-]+", re.ASCII)
"""Owner of a repository; patterns have other characters."""

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Register a GitHub App</title>
<form action="{action}" method="post">
<p>This registers a GitHub App with the permissions and events below at <b>{host}</b>.</p>
<input type="hidden" name="manifest" value="{manifest}">
<p><button>Continue to {host}</button></p>
</form>
<pre>{shown}</pre>
<script>document.forms[0].submit()</script>
</html>
"""


def manifest(
    settings: GithubSettings, *, name: str, webhook_url: str, redirect_url: str
) -> dict[str, Json]:
    """Return the manifest of an App with exactly what a configuration needs.

    Args:
        settings: The configuration.
        name: The App's name; the person who registers it can still change it.
        webhook_url: Address for GitHub's events; empty for `public_url` and the hub's path.
        redirect_url: Address to which the browser goes afterwards, with the code in its query.

    Raises:
        UsageError: GitHub would reject it.
    """
    _check_name(name)
    url = webhook_url or expected_url(settings)
    _check_url(url)
    return {
        "name": name,
        "url": settings.public_url or _origin(url),
        # A webhook that isn't active has no deliveries, so none could be polled either.
        "hook_attributes": {"url": url, "active": True},
        "redirect_url": redirect_url,
        **_callback(settings),
        "public": False,
        "default_permissions": {**permissions(settings)},
        "default_events": [*events(settings)],
    }


def _callback(settings: GithubSettings) -> dict[str, Json]:
    """Return the address to which people come back from their login, if the page has an address."""
    url = settings.public_url.rstrip("/")
    return {"callback_urls": [url + _CALLBACK_PATH]} if url else {}


def expected_url(settings: GithubSettings) -> str:
    """Return the address to which GitHub has to send events; empty if the configuration has no `public_url`."""
    return settings.public_url and settings.public_url.rstrip("/") + WEBHOOK_PATH


def website(api_url: str) -> str:
    """Return the address of GitHub's website for that of its API (GitHub docs, Getting started with the REST API)."""
    parts = urlsplit(api_url)
    host = parts.netloc
    # api.github.com, api.NAME.ghe.com; a GitHub Enterprise Server has its API below its own address.
    if not parts.path.strip("/"):
        host = host.removeprefix("api.")
    return f"{parts.scheme}://{host}"


def usual_name(program: str, organization: str, settings: GithubSettings) -> str:
    """Return a name for an App: that of the program and of the App's owner, as names are unique at GitHub.

    Args:
        program: Name of the program.
        organization: The owner; empty for the only owner that the rules name.
        settings: The configuration.
    """
    owners = {
        pattern.partition("/")[0].lower()
        for rule in settings.rules
        for pattern in rule.repositories
    }
    owner = organization or (owners.pop() if len(owners) == 1 else "")
    name = f"{program}-{owner}" if _OWNER.fullmatch(owner) else program
    return name[:LONGEST_NAME].rstrip("-")


def form_url(api_url: str, organization: str, state: str = "") -> str:
    """Return the address to which the form with the manifest is posted.

    Args:
        api_url: Address of the API.
        organization: The App's owner; empty for one's own account.
        state: Text that GitHub sends back beside the code; empty for none.
    """
    owner = f"/organizations/{in_path(organization)}" if organization else ""
    query = f"?state={quote(state)}" if state else ""
    return f"{website(api_url)}{owner}/settings/apps/new{query}"


def form_page(document: Mapping[str, Json], url: str) -> str:
    """Return a page (HTML) that posts a manifest to GitHub when it is opened."""
    return _PAGE.format(
        action=escape(url),
        host=escape(urlsplit(url).netloc),
        manifest=escape(json.dumps(document)),
        shown=escape(json.dumps(document, indent=2)),
    )


def code_of(text: str) -> str:
    """Return the code from a text that a person copied: the code itself, or the address with it."""
    for pair in urlsplit(text.strip()).query.split("&"):
        key, _, value = pair.partition("=")
        if key == "code":
            return value
    return text.strip()


def _check_name(name: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME:
        reason = f"GitHub takes names of 1 to {LONGEST_NAME} characters, and this one has {len(name)}"
        raise UsageError(cannot=f"call an App {name!r}", reason=reason)


def _check_url(url: str) -> None:
    cannot = "make an App's manifest"
    if not url:
        reason = "it needs an address for the webhook, with ingest = 'poll' too: set github.public_url, or give --webhook-url"
        raise UsageError(cannot=cannot, reason=reason)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(cannot=cannot, reason=f"{url} is no http(s) address")
    if _is_this_machine(parts.hostname):
        reason = f"GitHub takes no address of the machine itself, as {url} is"
        raise UsageError(cannot=cannot, reason=reason)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
