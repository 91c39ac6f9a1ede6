"""The table `[login]` of the hub's configuration: ways in which people log in (contracts/schemas/hub-config.schema.json)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attrs import evolve, frozen

from dispatchd.network.proxies import is_loopback, url_problem

_OPENID: Final = "openid"
"""Scope without which a provider returns no id token (OpenID Connect Core 1.0, 3.1.2.1)."""


@frozen(kw_only=True)
class RoleNames:
    """Names of the people who have a role; a name's form depends on the way in which they log in."""

    viewers: tuple[str, ...] = ()
    """People who see everything."""
    operators: tuple[str, ...] = ()
    """People who also run jobs again, end them, and pause dispatch."""
    admins: tuple[str, ...] = ()
    """People who may do everything that the page offers."""


@frozen(kw_only=True)
class GithubLogin(RoleNames):
    """Login with GitHub, by the OAuth of the App. Names are logins, or `id:` and the number of an account."""

    client_id: str
    client_secret_file: Path
    readers: bool = True
    """True if people without a role see the jobs of the repositories that they may read at GitHub."""


@frozen(kw_only=True)
class OidcLogin(RoleNames):
    """Login with an OpenID provider. Names are `group:`, `email:` or `sub:` and the value of that claim."""

    issuer: str
    """Address of the provider, exactly as its metadata and its id tokens have it."""
    client_id: str
    client_secret_file: Path
    name: str = "OpenID"
    """Name of the provider for people."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's (PEM)."""
    scopes: tuple[str, ...] = (_OPENID, "profile", "email")
    groups_claim: str = "groups"
    """Claim of the id token with the person's groups."""
    session_s: float = 3600.0
    """Lifetime of a session (seconds); after that the provider is asked again."""


@frozen(kw_only=True)
class LoginSettings:
    """Ways in which people log in to the page, beside access tokens. Paths are absolute once loaded."""

    public_url: str = ""
    """Address of the page for people; empty for that of `[github]`."""
    access_s: float = 120.0
    """Time for which GitHub's answer counts on what a person may read (seconds)."""
    github: GithubLogin | None = None
    oidc: OidcLogin | None = None


def resolved(settings: LoginSettings, folder: Path, public_url: str) -> LoginSettings:
    """Return settings whose paths don't depend on the working directory.

    Args:
        settings: The settings.
        folder: The folder of the configuration.
        public_url: The page's address where these settings have none.
    """
    github, oidc = settings.github, settings.oidc
    if github is not None:
        github = evolve(github, client_secret_file=folder / github.client_secret_file)
    if oidc is not None:
        oidc = evolve(
            oidc,
            client_secret_file=folder / oidc.client_secret_file,
            ca_file=None if oidc.ca_file is None else folder / oidc.ca_file,
        )
    url = (settings.public_url or public_url).rstrip("/")
    return evolve(settings, public_url=url, github=github, oidc=oidc)


def mistakes(
    settings: LoginSettings, *, has_github: bool, public_url: str
) -> Iterator[tuple[str, str]]:
    """Yield the mistakes that a schema can't express: key and expectation.

    Args:
        settings: The settings.
        has_github: True if the configuration has a table `[github]`.
        public_url: The page's address where these settings have none.
    """
    if settings.github is None and settings.oidc is None:
        yield "login", "must have a table github or oidc"
    if settings.github is not None and not has_github:
        yield (
            "login.github",
            "must stand beside the table [github], whose api_url it uses",
        )
    url = settings.public_url or public_url
    if not url:
        yield (
            "login.public_url",
            "must be the page's address, to which people come back from their login",
        )
    elif problem := url_problem(url):
        yield "login.public_url", problem
    elif urlsplit(url).path.strip("/"):
        yield (
            "login.public_url",
            "must have no path: the page is at the root of its host",
        )
    if settings.oidc is not None:
        yield from _mistakes_of_oidc(settings.oidc)


def _mistakes_of_oidc(oidc: OidcLogin) -> Iterator[tuple[str, str]]:
    if problem := url_problem(oidc.issuer) or secure_problem(oidc.issuer):
        yield "login.oidc.issuer", problem
    if _OPENID not in oidc.scopes:
        yield "login.oidc.scopes", f"must have {_OPENID}"


def secure_problem(url: str) -> str:
    """Return the reason why an address may not get secrets; empty if it may."""
    parts = urlsplit(url)
    is_secure = parts.scheme == "https" or is_loopback(parts.hostname or "")
    return "" if is_secure else "must be https, except on this machine itself"
