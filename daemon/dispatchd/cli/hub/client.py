"""Client for commands that call a running hub: its address, a token, its answers."""

import json
import os
from collections.abc import Callable, Sequence
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

import click

from dispatchd.cli.options import json_option, print_json, read_text
from dispatchd.cli.screen.table import Column, print_table
from dispatchd.cli.terminal import echo
from dispatchd.errors import ContractViolation, NotReachable, UsageError
from dispatchd.network.content_coding import ACCEPT_IDENTITY, coding_problem
from dispatchd.protocol.times import utc

if TYPE_CHECKING:
    import ssl

    import httpx

_TIMEOUT_S: Final = 30.0
"""Longest wait for an answer of the hub (seconds)."""

_DIGITS: Final = 15
"""Most digits of a number in a header (count)."""

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


class Unanswered(NotReachable):
    """A call may have been carried out, and nobody knows: its answer was lost, or is an error of the hub."""


class IsThere(UsageError):
    """The hub refuses to make what exists already."""


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
        github = settings.github if settings and not url else None
        self.page_url = (github.public_url if github else "") or self.url
        """Address of the page, for people."""
        self._cert_file = settings.tls_cert_file if settings and not url else ""
        """Certificate of the hub itself, if its configuration is on this machine."""
        file = token_file or (settings.token_file if settings and not token else None)
        self._token = (token if file is None else read_text(file)).strip()
        if not self._token:
            where = file or "DISPATCHD_HUB_TOKEN"
            raise UsageError(cannot="use the token", reason=f"{where} has none")
        if not (self._token.isascii() and self._token.isprintable()):
            # Checked here, because the HTTP client would show the token.
            raise UsageError(
                cannot="use the token", reason="it is not one line of ASCII"
            )

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        cannot: str,
        contract: str = "",
        has: str = "",
    ) -> dict[str, Any]:
        """Return the hub's answer, which proves itself: a login page may answer any call with status 200.

        Args:
            method: The method of HTTP.
            path: The path, encoded.
            body: The body, as a JSON value; None for no body.
            cannot: What the command can't do if this fails, as words after "cannot".
            contract: The contract that the answer keeps.
            has: A member of the answer, for one without a contract of its own. If both are empty, there is no answer
                beside its status, 204.

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.
            ConfigError: The environment names a proxy that can't be used.
        """
        answer = self._answer(method, path, body, cannot)
        problem = _problem(answer, contract, has)
        if problem:
            raise NotReachable(cannot=cannot, reason=f"{self.url} {problem}")
        return answer or {}

    def text(
        self, path: str, counts: Sequence[str], *, cannot: str
    ) -> "tuple[bytes, httpx.Headers]":
        """Return the text and the headers of an answer that is no JSON.

        Args:
            path: The path, encoded.
            counts: Headers of every such answer of the hub, each a whole number.
            cannot: What the command can't do if this fails, as words after "cannot".

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.
        """
        reply = self._reply("GET", path, None, cannot)
        if not reply.is_success:
            self._refused(reply, cannot)
        if not all(_is_count(reply.headers.get(name, "")) for name in counts):
            raise NotReachable(cannot=cannot, reason=self._page(reply))
        return reply.content, reply.headers

    def rows(
        self, path: str, name: str, contract: str, *, cannot: str
    ) -> list[dict[str, Any]]:
        """Return the items of a list of the hub's.

        Args:
            path: The path, encoded.
            name: The member of the answer that is the list.
            contract: The contract that each item keeps.
            cannot: What the command can't do if this fails, as words after "cannot".

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.
            ConfigError: The environment names a proxy that can't be used.
        """
        listed = self.ask("GET", path, cannot=cannot, has=name)[name]
        items: list[dict[str, Any]] = []
        for item in listed if isinstance(listed, list) else [listed]:
            problem = _problem(item, contract, "")
            if problem:
                raise NotReachable(cannot=cannot, reason=f"{self.url} {problem}")
            items.append(item)
        return items

    def job(
        self, job_id: str, *, wait_s: float = 0, until: str = "finished"
    ) -> dict[str, Any]:
        """Return a job by its whole id, after `wait_s` (seconds) or as soon as it is in the state `until` or has ended.

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses, or has no such job.
        """
        return self.ask(
            "GET",
            f"/api/v1/jobs/{in_path(job_id)}?wait={wait_s:g}&until={until}",
            cannot=f"show job {job_id}",
            contract="hub-job",
        )

    def machines(self) -> list[dict[str, Any]]:
        """Return the machines.

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.
        """
        return self.rows(
            "/api/v1/machines", "machines", "hub-machine", cannot="list machines"
        )

    def _answer(
        self, method: str, path: str, body: object, cannot: str
    ) -> dict[str, Any] | None:
        """Return the JSON object in a successful answer; None for one with status 204.

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses.
        """
        reply = self._reply(method, path, body, cannot)
        document = _object(reply.content)
        if reply.status_code == HTTPStatus.NO_CONTENT:
            return None
        if not reply.is_success:
            self._refused(reply, cannot)
        if document is None:
            raise NotReachable(cannot=cannot, reason=self._page(reply))
        return document

    def _reply(
        self, method: str, path: str, body: object, cannot: str
    ) -> "httpx.Response":
        """Return an answer, whatever its status.

        Raises:
            NotReachable: The hub doesn't answer.
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
                    **ACCEPT_IDENTITY,
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
                return reply
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = f"no hub answers at {self.url} ({error})"
            lost = (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError)
            kind = Unanswered if isinstance(error, lost) else NotReachable
            raise kind(cannot=cannot, reason=reason) from error

    def _refused(self, reply: "httpx.Response", cannot: str) -> NoReturn:
        """Report a refusal.

        Raises:
            NotReachable: It is an error of the hub, or of something on the way.
            UsageError: The hub refuses.
        """
        said = (_object(reply.content) or {}).get("message")
        reason = said if isinstance(said, str) else self._page(reply)
        if reply.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unanswered(cannot=cannot, reason=reason)
        kind = IsThere if reply.status_code == HTTPStatus.CONFLICT else UsageError
        raise kind(cannot=cannot, reason=reason)

    def _page(self, reply: "httpx.Response") -> str:
        """Return the description of an answer that isn't the hub's JSON."""
        kind = reply.headers.get("content-type", "no content type").partition(";")[0]
        page = f" with {kind:.60} (a proxy's or a login page?)"
        is_json = _object(reply.content) is not None
        return f"{self.url} answers {reply.status_code}{'' if is_json else page}"

    def _context(self) -> "ssl.SSLContext":
        """Return the context that checks the hub's certificate.

        A local copy of it is the only certificate trusted, and its name isn't checked.

        Raises:
            UsageError: The certificate's file can't be read.
        """
        import ssl

        from dispatchd.network.trust import client_context, context_without_tls

        if not self._cert_file:
            is_plain = self.url.startswith("http:")
            return context_without_tls() if is_plain else client_context(None)
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
        from dispatchd.network.proxies import environment_proxy, httpx_proxy, parsed

        url = parsed(self.url)
        if url.scheme != "https" or self._cert_file:
            # Requests without encryption, and the token in them, are for the hub alone.
            return None
        environment = os.environ  # noqa: TID251  # as above
        proxy = environment_proxy(url, environment)
        return None if proxy is None else httpx_proxy(proxy)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _problem(document: object, contract: str, has: str) -> str:
    """Return why an answer isn't a hub's, as words after its address; empty if it may be one."""
    from dispatchd.protocol.contracts import check

    try:
        if contract:
            check(contract, document)
    except ContractViolation as violation:
        return f"answers, but not as a hub does: {violation.path} {violation.rule}"
    if has and not (isinstance(document, dict) and has in document):
        return f"answers, but not as a hub does: $.{has} is missing"
    if not (contract or has or document is None):
        return "answers, but not as a hub does: it says more than that it is done"
    return ""


limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Largest number of rows.",
)


def print_rows(
    items: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    row: Callable[[dict[str, Any]], Sequence[str]],
    *,
    as_json: bool,
    empty: str,
) -> None:
    """Print a list of the hub as JSON, or as a table with a row for each item; `empty` is the line for no items."""
    if as_json:
        print_json(items)
    elif items:
        print_table(columns, [row(item) for item in items])
    else:
        echo(empty)


def say(answer: object, message: str, *, as_json: bool) -> None:
    """Print an answer as JSON or in words."""
    if as_json:
        print_json(answer)
    else:
        echo(message)


def in_path(name: str) -> str:
    """Return a name as one segment of a path. Dots are encoded too: clients take them for folders."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E")


def when(at: float) -> str:
    """Return a time (seconds since the epoch) for people, in UTC; empty for 0."""
    return utc(at) if at else ""
