"""Client for commands that call a running hub: its address, a token, its answers."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from dispatchd.cli.options import (
    json_option,
    print_json,
    read_text,
)
from dispatchd.cli.terminal import echo
from dispatchd.errors import NotReachable, UsageError
from dispatchd.network.content_coding import ASKED_FOR, coding_problem

if TYPE_CHECKING:
    import ssl

    import httpx

_SERVER_ERROR: Final = 500
_TIMEOUT_S: Final = 30.0
"""Longest wait for an answer of the hub (seconds)."""

_SERVICE: Final = Path("/var/lib/dispatchd-hub/hub.toml")
"""Configuration file of the hub, as the unit in `systemd/` has it."""


def _config_file() -> Path:
    here = Path("hub.toml")
    return here if here.exists() or not os.access(_SERVICE, os.R_OK) else _SERVICE


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar="DISPATCHD_HUB_CONFIG",
    default=_config_file,
    help="The hub's configuration file.  [default: hub.toml here, else /var/lib/dispatchd-hub/hub.toml]",
)
_url_option = click.option(
    "--url",
    envvar="DISPATCHD_HUB_URL",
    help="The hub's address.  [default: where the configuration has it listen]",
)
_token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with a token; else $DISPATCHD_HUB_TOKEN counts, else what `hub init` has left.",
)


def asks_hub(act: Callable[..., None]) -> Callable[..., None]:
    """Add the options for reaching a hub to a command, and pass it the client made from them."""

    @wraps(act)
    def command(
        config_file: Path, url: str | None, token_file: Path | None, **others: object
    ) -> None:
        act(HubClient(config_file, url, token_file), **others)

    for option in (json_option, _token_option, _url_option, config_option):
        command = option(command)
    return command


class HubClient:
    """Client of a hub's API."""

    def __init__(
        self, config_file: Path, url: str | None, token_file: Path | None
    ) -> None:
        from dispatchd.hub.config.load import load

        environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
        token = environment.get("DISPATCHD_HUB_TOKEN", "")
        settings = None if url and (token_file or token) else load(config_file)
        self.url = url or (settings.url if settings else "")
        self._cert_file = settings.tls_cert_file if settings and not url else ""
        """Certificate of the hub itself, if its configuration is on this machine."""
        file = token_file or (settings.token_file if settings and not token else None)
        self._token = (token if file is None else read_text(file)).strip()
        if not (self._token.isascii() and self._token.isprintable()):
            # Checked here, because the HTTP client would show the token.
            raise UsageError(
                cannot="use the token", reason="it is not one line of ASCII"
            )

    def ask(
        self, method: str, path: str, body: object = None, *, cannot: str
    ) -> dict[str, Any]:
        """Return the hub's answer.

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.

        Fails with ConfigError if the environment names a proxy that can't be used.
        """
        import httpx

        try:
            with httpx.stream(
                method,
                self.url.rstrip("/") + path,
                # ASCII with escapes can carry all that JSON can.
                content=None if body is None else json.dumps(body).encode(),
                headers={
                    "Authorization": f"Bearer {self._token}",
                    "Content-Type": "application/json",
                    **ASKED_FOR,
                },
                timeout=_TIMEOUT_S,
                proxy=self._proxy(),
                verify=self._context(),
                trust_env=False,
            ) as reply:
                coding = reply.headers.get("content-encoding", "")
                if problem := coding_problem(coding):
                    raise NotReachable(cannot=cannot, reason=f"{self.url}: {problem}")
                reply.read()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = f"no hub answers at {self.url} ({error})"
            raise NotReachable(cannot=cannot, reason=reason) from error
        try:
            found = reply.json() if reply.content else {}
        except ValueError:
            found = {}
        document: dict[str, Any] = found if isinstance(found, dict) else {}
        if reply.is_success:
            return document
        reason = document.get("message") or f"{self.url} answers {reply.status_code}"
        if reply.status_code >= _SERVER_ERROR:
            raise NotReachable(cannot=cannot, reason=reason)
        raise UsageError(cannot=cannot, reason=reason)

    def _context(self) -> "ssl.SSLContext":
        """Return the context that checks the hub's certificate.

        A local copy of it is the only certificate trusted, and its name isn't checked.

        Raises:
            UsageError: The certificate's file can't be read.
        """
        import ssl

        from dispatchd.network.trust import client_context

        if not self._cert_file:
            return client_context(None)
        try:
            context = ssl.create_default_context(cafile=self._cert_file)
        except OSError as error:
            raise UsageError(
                cannot=f"read {self._cert_file}",
                reason=f"{error}; use --url and a token",
            ) from error
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _proxy(self) -> "httpx.Proxy | None":
        import httpx

        from dispatchd.network.proxies import environment_proxy, httpx_proxy

        url = httpx.URL(self.url)
        if url.scheme != "https" or self._cert_file:
            # Requests without encryption, and the token in them, are for the hub alone.
            return None
        environment = os.environ  # noqa: TID251  # as above
        proxy = environment_proxy(url, environment)
        return None if proxy is None else httpx_proxy(proxy)


def say(found: object, words: str, *, as_json: bool) -> None:
    """Print an answer as JSON or in words."""
    if as_json:
        print_json(found)
    else:
        echo(words)


def in_path(name: str) -> str:
    """Return a name as one segment of a path. Dots are encoded too: clients take them for folders."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E")


def when(at: float) -> str:
    """Return a time (seconds since the epoch) for people, in UTC; empty for 0."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}" if at else ""
