"""Client for commands that call a running hub: its address, a token, its answers."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dispatchd.cli.brand import brand
from dispatchd.cli.options import json_option, print_json, read_text
from dispatchd.cli.screen.table import Column, print_table
from dispatchd.cli.terminal import echo
from dispatchd.errors import (
    ConfigError,
    ContractViolation,
    NotReachable,
    UsageError,
    UserError,
)
from dispatchd.network.request_target import in_path
from dispatchd.protocol.times import utc

if TYPE_CHECKING:
    from dispatchd.client import ClientError, Hub

_CLIENT_ERRORS: Final = range(400, 500)
"""Statuses that blame the client (RFC 9110, 15.5)."""

_SERVICE: Final = Path(f"/var/lib/{brand().name}-hub/hub.toml")
"""Configuration file of the hub, as the unit in `systemd/` has it."""


def _config_file() -> Path:
    here = Path("hub.toml")
    return here if here.exists() or not os.access(_SERVICE, os.R_OK) else _SERVICE


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar=brand().variable("HUB_CONFIG"),
    default=_config_file,
    help="The hub's configuration file.  [default: hub.toml here, else /var/lib/dispatchd-hub/hub.toml]",
)
_url_option = click.option(
    "--url",
    envvar=brand().variable("HUB_URL"),
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
    """Client of a hub for a command: the address and the token come from its options, and errors are told in one line."""

    def __init__(
        self, config_file: Path, url: str | None, token_file: Path | None
    ) -> None:
        from dispatchd.hub.config.load import load

        environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
        token = environment.get(brand().variable("HUB_TOKEN"), "")
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
            where = file or brand().variable("HUB_TOKEN")
            raise UsageError(cannot="use the token", reason=f"{where} has none")
        if not (self._token.isascii() and self._token.isprintable()):
            raise UsageError(
                cannot="use the token", reason="it is not one line of ASCII"
            )

    @contextmanager
    def calls(self, cannot: str) -> Iterator["Hub"]:
        """Yield the client for programs, whose errors are told in the words of the command.

        Args:
            cannot: What the command can't do if a call fails, as words after "cannot".

        Raises:
            NotReachable: The hub doesn't answer.
            UsageError: The hub refuses, or its certificate can't be read.
            ConfigError: The environment names a proxy that can't be used.
        """
        from dispatchd.client import ClientError

        try:
            with self._opened(cannot) as hub:
                yield hub
        except ClientError as error:
            raise _told(error, cannot) from error

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
        with self.calls(cannot) as hub:
            return hub.request(method, path, body, contract=contract, has=has)

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
        from dispatchd.protocol.contracts import check

        with self.calls(cannot) as hub:
            listed = hub.request("GET", path, has=name)[name]
        items: list[dict[str, Any]] = listed if isinstance(listed, list) else [listed]
        for item in items:
            try:
                check(contract, item)
            except ContractViolation as violation:
                reason = f"{self.url} answers, but not as a hub does: {violation.path} {violation.rule}"
                raise NotReachable(cannot=cannot, reason=reason) from violation
        return items

    def submit(self, job: Mapping[str, Any], *, cannot: str) -> dict[str, Any]:
        """Queue a job once, also where the hub's answer is lost, and return the document with its id.

        Raises:
            NotReachable: The hub doesn't answer; if it may have queued the job, the reason names its id.
            UsageError: The hub refuses.
        """
        with self.calls(cannot) as hub:
            return {"id": hub.submit_document(job)}

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

    def _opened(self, cannot: str) -> "Hub":
        """Return the client for programs. It repeats nothing by itself: a person waits.

        Raises:
            NotReachable: The address is none.
            UsageError: The certificate can't be read.
            ConfigError: The environment names a proxy that can't be used.
        """
        from dispatchd.client import Hub, InvalidSetup
        from dispatchd.client.connection import address_problem

        if problem := address_problem(self.url):
            reason = f"no hub answers at {self.url} ({problem})"
            raise NotReachable(cannot=cannot, reason=reason)
        try:
            return Hub(
                self.url,
                self._token,
                certificate_file=self._cert_file or None,
                retries=0,
            )
        except InvalidSetup as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            reason = f"{error.reason}; use --url and a token"
            raise UsageError(cannot=error.call, reason=reason) from error


def _told(error: "ClientError", cannot: str) -> UserError:
    """Return an error of the client in the words of a command."""
    from dispatchd.client import (
        NotAHub,
        NotStored,
        PathTaken,
        Refused,
        Unavailable,
    )

    status = error.status or 0
    is_page = isinstance(error, NotAHub) and status in _CLIENT_ERRORS
    is_refusal = isinstance(error, Refused) and not isinstance(error, Unavailable)
    if is_page or is_refusal or isinstance(error, PathTaken | NotStored):
        return UsageError(cannot=cannot, reason=error.reason)
    return NotReachable(cannot=cannot, reason=error.reason)


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


def when(at: float) -> str:
    """Return a time (seconds since the epoch) for people, in UTC; empty for 0."""
    return utc(at) if at else ""
