"""`dispatchd conformance`: judge a dispatch endpoint by the rules of the contract."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from dispatchd.cli.options import finite, not_blank, print_json, read_text
from dispatchd.cli.signals import ended_by_signals
from dispatchd.cli.terminal import echo
from dispatchd.cli.vendor.judgements import (
    document,
    print_counts,
    print_rules,
    write_junit,
)
from dispatchd.errors import UsageError

if TYPE_CHECKING:
    import httpx

    from dispatchd.conformance.caller import Identity
    from dispatchd.conformance.hooks import Hooks
    from dispatchd.conformance.record import Record
    from dispatchd.judging.judgement import Judgement

_PASSED, _BROKEN, _ENDED = 0, 1, 2
"""Exit codes: the level is reached, a rule is broken or the level is not reached, the trial ended early."""

_file = click.Path(path_type=Path, allow_dash=True)


@click.command()
@click.argument("url", callback=not_blank)
@click.option(
    "--key-file",
    type=_file,
    help="License key of a machine for the trial, which is activated; - for stdin.",
)
@click.option(
    "--secret-file",
    type=_file,
    help="In place of a key: secret of a machine, with --license-id and --server-id.",
)
@click.option("--license-id", default="", help="License of that machine.")
@click.option("--server-id", default="", help="Id of that machine.")
@click.option(
    "--token-file",
    type=_file,
    help="Token with which jobs are submitted by POST /api/v1/jobs, as at a hub.",
)
@click.option(
    "--submit-command",
    default="",
    help="Command that queues the job in its stdin (JSON); in place of a token.",
)
@click.option(
    "--restart-command",
    default="",
    help="Command that restarts the endpoint, to judge what is durable.",
)
@click.option(
    "--revoke-command",
    default="",
    help="Command that revokes the trial's machine; comes last.",
)
@click.option(
    "--level",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Level to require: 1 first protocol, 2 with claims, leases and heartbeats.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, 3600),
    callback=finite,
    default=5.0,
    show_default=True,
    help="Longest lease whose end is waited for, in seconds.",
)
@click.option("--ca-file", type=click.Path(path_type=Path), help="CAs (PEM) to trust.")
@click.option(
    "--junit", type=click.Path(path_type=Path), help="Write JUnit's XML there."
)
@click.option("--json", "as_json", is_flag=True, help="Output JSON.")
def conformance(
    url: str,
    key_file: Path | None,
    secret_file: Path | None,
    license_id: str,
    server_id: str,
    token_file: Path | None,
    submit_command: str,
    restart_command: str,
    revoke_command: str,
    level: int,
    patience: float,
    ca_file: Path | None,
    junit: Path | None,
    *,
    as_json: bool,
) -> None:
    """Judge the dispatch endpoint at URL by each rule of the contract that shows from outside.

    It plays a machine, with jobs of its own. The machine, or the endpoint, should get no other jobs: one that comes is
    given back, and the trial ends. An extension that the endpoint doesn't show costs nothing at level 1. Exit code: 0 if
    the level is reached, 1 if not, 2 if the trial ended early.
    """
    _check_url(url)
    identity = _identity(secret_file, license_id, server_id)
    if (key_file is None) == (identity is None):
        reason = "give --key-file, or --secret-file, and not both"
        raise UsageError(cannot=f"judge {url}", reason=reason)
    key = "" if key_file is None else _secret(key_file)
    token = "" if token_file is None else _secret(token_file)
    if bool(token) == bool(submit_command):
        reason = "jobs have to come from somewhere: give --token-file or --submit-command, and not both"
        raise UsageError(cannot=f"judge {url}", reason=reason)
    commands = {
        "--submit-command": submit_command,
        "--restart-command": restart_command,
        "--revoke-command": revoke_command,
    }
    import anyio

    from dispatchd.conformance.run import Settings, run_trial
    from dispatchd.linux.log import silence

    silence()
    settings = Settings(
        url=url.rstrip("/"),
        ca_file=ca_file,
        hooks=_hooks(commands, token),
        identity=identity,
        key=key,
        patience_s=patience,
    )
    # Its jobs are ended, also where a job of CI is cancelled.
    with ended_by_signals():
        record = anyio.run(run_trial, settings)
    _conclude(record, level, url, junit, as_json=as_json)


def _conclude(
    record: "Record", level: int, url: str, junit: Path | None, *, as_json: bool
) -> NoReturn:
    """Print the judgement, write it as JUnit's XML if wanted, and exit."""
    from dispatchd.conformance.judge import judged, level_of

    judgements = judged(record)
    reached = level_of(judgements, record)
    if as_json:
        print_json(_document(judgements, record, reached))
    else:
        _print(judgements, record, reached)
    if junit is not None:
        write_junit(junit, "conformance", url, judgements, record.ended)
    is_broken = reached < level or any(each.verdict == "broken" for each in judgements)
    sys.exit(_ENDED if record.ended else _BROKEN if is_broken else _PASSED)


def _check_url(url: str) -> None:
    """Check that secrets may go to an address.

    Raises:
        UsageError: They may not.
    """
    from dispatchd.network.proxies import is_loopback, parsed, url_problem

    problem = url_problem(url)
    if not problem:
        address = parsed(url)
        if address.scheme not in {"http", "https"} or not address.host:
            problem = "must begin with https:// or http://"
        elif address.userinfo or address.query or address.fragment:
            problem = "must have no credentials, no query and no fragment"
        elif address.scheme == "http" and not is_loopback(address.host):
            problem = "must be https, since it is another machine's: secrets go there"
    if problem:
        raise UsageError(cannot="judge this URL", reason=problem)


def _identity(
    secret_file: Path | None, license_id: str, server_id: str
) -> "Identity | None":
    if secret_file is None:
        if license_id or server_id:
            reason = "--license-id and --server-id need --secret-file"
            raise UsageError(cannot="judge", reason=reason)
        return None
    if not license_id or not server_id:
        reason = "--secret-file needs --license-id and --server-id"
        raise UsageError(cannot="judge", reason=reason)
    from dispatchd.conformance.caller import Identity

    return Identity(
        license_id=license_id, server_id=server_id, secret=_secret(secret_file)
    )


def _secret(file: Path) -> str:
    secret = "".join(read_text(file).split())
    if not secret:
        raise UsageError(cannot=f"use {file}", reason="it is empty")
    return secret


def _hooks(
    commands: Mapping[str, str], token: str
) -> "Callable[[httpx.AsyncClient], Hooks]":
    """Return the maker of the hooks."""
    from dispatchd.conformance.hooks import Command, Hooks, SubmitCall

    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in

    def command(name: str) -> Command | None:
        line = commands[name]
        return Command(name=name, line=line, environment=environment) if line else None

    def hooks(http: "httpx.AsyncClient") -> Hooks:
        return Hooks(
            submits=command("--submit-command")
            or SubmitCall(http=http, token=token, within_s=10.0),
            restart=command("--restart-command"),
            revoke=command("--revoke-command"),
        )

    return hooks


def _document(
    judgements: "list[Judgement]", record: "Record", reached: int
) -> dict[str, object]:
    return {
        "level": reached,
        "ended_early": record.ended,
        "left_in_queue": record.left,
        "extensions": sorted(record.shown),
        "rules": document(judgements),
    }


def _print(judgements: "list[Judgement]", record: "Record", reached: int) -> None:
    """Print a line for each rule, then the outcome."""
    print_rules(judgements)
    if record.ended:
        echo(f"\nThe trial ended early: {record.ended}")
    if record.left:
        echo(f"\nLeft in the queue: {', '.join(record.left)}")
    shown = ", ".join(sorted(record.shown)) or "none"
    echo(f"\nExtensions: {shown}")
    print_counts(judgements)
    echo(f"Level: {reached or 'none'}")
