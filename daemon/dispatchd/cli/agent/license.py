"""`dispatchd license`, `activate`, `deactivate`: identity of this machine at its endpoint, and a vendor's side of it."""

import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click

from dispatchd.agent.config.load import Config
from dispatchd.cli.agent.as_owner import as_owner_of
from dispatchd.cli.agent.views import passed_s
from dispatchd.cli.brand import brand
from dispatchd.cli.options import config_option, json_option, load_config, print_json
from dispatchd.cli.screen.groups import SectionedGroup, Sections
from dispatchd.cli.screen.hints import confirm, next_step, yes_option
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.cli.vendor.license_keys import inspect, issue, keygen
from dispatchd.errors import DispatchdError, NotReachable, UsageError
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import ago, utc

_SECTIONS: Final[Sections] = MappingProxyType(
    {"For vendors": ("keygen", "issue", "inspect")}
)


@click.group(
    "license", cls=SectionedGroup, sections=_SECTIONS, invoke_without_command=True
)
@config_option
@json_option
@click.pass_context
def license_(
    context: click.Context, config_file: Path | None, *, as_json: bool
) -> None:
    """Show the license of this machine: source, status, expiry; with a command, a vendor's side of licenses."""
    if context.invoked_subcommand is None:
        _show(config_file, as_json=as_json)


license_.add_command(keygen)
license_.add_command(issue)
license_.add_command(inspect)


def _show(config_file: Path | None, *, as_json: bool) -> None:
    config = load_config(config_file)
    document = _current_license(config)
    if as_json:
        print_json(document)
    elif document.get("source") == "configuration":
        echo(
            f"The identity is configured: license {config.cloud.license_id}, machine {config.cloud.server_id}."
        )
    else:
        _print(document)


@click.command()
@config_option
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File with the license key; - for stdin.  [default: license.key_file, else stdin]",
)
def activate(config_file: Path | None, key_file: Path | None) -> None:
    """Activate a license key on this machine; a running daemon takes it over at once.

    The key comes from a file, from a pipe, or is asked for: an argument could be read by every user of this machine.
    """
    config = _licensed(config_file, "activate")
    key = _key(key_file, config)
    import anyio

    from dispatchd.agent.activation import activate_key
    from dispatchd.linux.log import silence

    silence()
    with as_owner_of(config.state_folder):
        claims = anyio.run(activate_key, config, dict(os.environ), key)  # noqa: TID251  # the command line is where the environment comes in
    tell_daemon(config)
    echo(f"activated: license {claims.license_id}, plan {claims.plan or 'none'}")
    next_step(
        f"Check everything: dispatchd doctor. Start the daemon: dispatchd run, or systemctl start {brand().name}."
    )


@click.command()
@config_option
@yes_option
def deactivate(config_file: Path | None, *, yes: bool) -> None:
    """Forget the stored activation; a running daemon stops pulling. Its runs continue and are reported.

    On a terminal it asks first.
    """
    config = _licensed(config_file, "deactivate")
    confirm("Forget the activation? A new one needs a new license key.", yes=yes)
    from dispatchd.agent.store.identity import IdentityStore

    try:
        IdentityStore(config.state_folder).forget()
    except DispatchdError as error:
        raise NotReachable(cannot="deactivate", reason=str(error)) from error
    tell_daemon(config)
    echo("deactivated: this machine has no stored activation any more")


def _licensed(config_file: Path | None, what: str) -> Config:
    config = load_config(config_file)
    if config.secret_file is not None:
        reason = f"{config.file} has an identity of its own (cloud.license_id); it needs no license"
        raise UsageError(cannot=what, reason=reason)
    return config


def _key(key_file: Path | None, config: Config) -> str:
    from dispatchd.cli.options import read_text

    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    if key_file is None and config.license.key_file:
        configured = config.file.parent / config.license.key_file
        # A configured file that doesn't exist yet doesn't keep the command from asking for the key.
        key_file = configured if configured.is_file() else None
    if key_file is not None and str(key_file) != "-":
        key = read_text(key_file)
    elif key_file is not None or is_piped:
        key = sys.stdin.read() if sys.stdin is not None else ""
    else:
        key = str(click.prompt("License key", hide_input=True, err=True))
    key = key.removeprefix("\ufeff").strip()
    if not key:
        raise UsageError(cannot="activate", reason="the license key is empty")
    return key


def tell_daemon(config: Config) -> bool:
    """Notify a running daemon, and return whether there is one; it would notice the change by itself within seconds."""
    from dispatchd.agent.control.client import ask

    try:
        ask(
            config.control_folder,
            "POST",
            "/v1/license/look",
            cannot="tell the daemon",
            state=config.state_folder,
        )
    except NotReachable:
        return False
    return True


def _current_license(config: Config) -> dict[str, Json]:
    """Return the license from the running daemon, or else from the disk."""
    from dispatchd.agent.control.client import ask

    try:
        answer = ask(
            config.control_folder,
            "GET",
            "/v1/license",
            cannot="ask the daemon",
            state=config.state_folder,
        )
    except NotReachable:
        if config.secret_file is not None:
            return {"source": "configuration"}
        from dispatchd.agent.activation import license_on_disk

        environment = dict(os.environ)  # noqa: TID251  # as above
        return {"daemon": "not running", **license_on_disk(config, environment)}
    return answer if isinstance(answer, dict) else {}


def _print(document: dict[str, Json]) -> None:
    features = document.get("features")
    print_pairs(
        {
            "license": str(document.get("license_id") or "none"),
            "source": str(document.get("source") or "none found"),
            "machine": str(document.get("server_id") or ""),
            "plan": str(document.get("plan") or ""),
            "features": ", ".join(map(str, features))
            if isinstance(features, list)
            else "",
            "state": str(document.get("validity") or "unknown"),
            "expires": _when(document, "expires_at"),
            "grace until": _when(document, "grace_until"),
            "may pull": "yes"
            if document.get("good")
            else f"no: {document.get('blocked_reason')}",
            "warning": str(document.get("warning") or ""),
            "last heartbeat": _when(document, "last_heartbeat_at"),
            "next heartbeat": _when(document, "next_heartbeat_at"),
            "last error": str(document.get("heartbeat_error") or ""),
            "daemon": str(document.get("daemon") or ""),
        }
    )


def _when(document: dict[str, Json], name: str) -> str:
    """Return a time with its distance from now, such as `2026-12-24 00:00:00 UTC (in 33 d)`."""
    from datetime import datetime

    text = document.get(name)
    if not isinstance(text, str):
        return ""
    at = datetime.fromisoformat(text)
    return f"{utc(at)} ({ago(passed_s(at))})"
