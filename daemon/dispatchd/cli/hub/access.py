"""`dispatchd hub machines`, `machine ...`, `token ...`: access of machines, people and programs to a hub."""

from collections.abc import Sequence
from typing import Any, Final

import click

from dispatchd.cli.agent.views import age_s
from dispatchd.cli.hub.client import HubClient, asks_hub, print_rows, say, when
from dispatchd.cli.options import not_blank, print_json
from dispatchd.cli.screen.hints import confirm, next_step, yes_option
from dispatchd.cli.screen.table import Column, Kind, print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.network.request_target import in_path
from dispatchd.protocol.times import ago, size

_MACHINE_COLUMNS: Final = (
    Column("MACHINE"),
    Column("STATE", Kind.STATE),
    Column("SEEN", Kind.WHOLE),
    Column("RUNS", Kind.WHOLE),
    Column("FREE", Kind.WHOLE),
    Column("WORKFLOWS"),
    Column("BOUND TO"),
    Column("SERVER ID", Kind.ID),
)
_TOKEN_COLUMNS: Final = (
    Column("TOKEN"),
    Column("SCOPES"),
    Column("MADE", Kind.WHOLE),
    Column("REVOKED", Kind.WHOLE),
)


@click.command()
@asks_hub
def machines(hub: HubClient, *, as_json: bool) -> None:
    """List the machines."""
    rows = hub.machines()
    empty = "No machines yet. Add one: dispatchd hub machine add NAME"
    print_rows(rows, _MACHINE_COLUMNS, _machine_row, as_json=as_json, empty=empty)


@click.group()
def machine() -> None:
    """Add and revoke machines."""


@machine.command("add", short_help="Add a machine as NAME; print its credentials.")
@asks_hub
@click.option(
    "--fixed-secret",
    is_flag=True,
    help="A secret for its configuration, in place of a key to activate.",
)
@click.argument("name", callback=not_blank)
def add_machine(
    hub: HubClient,
    *,
    as_json: bool,
    fixed_secret: bool,
    name: str,
) -> None:
    """Add a machine as NAME, and print its credentials, which are shown only once."""
    answer = hub.ask(
        "POST",
        "/api/v1/machines",
        {"name": name, "fixed_secret": fixed_secret},
        cannot=f"add machine {name}",
        contract="hub-machine",
    )
    _say_given(hub, answer, as_json=as_json)


@machine.command("rotate", short_help="Give the machine NAME a new key or secret.")
@asks_hub
@yes_option
@click.argument("name", callback=not_blank)
def rotate_machine(hub: HubClient, *, as_json: bool, yes: bool, name: str) -> None:
    """Give the machine NAME a new key, or a new secret where it has a fixed one. On a terminal it asks first.

    With a key, the old secret stays valid until the key is activated; a fixed secret is replaced at once.
    """
    confirm(f"Replace the credentials of machine {name}?", yes=yes)
    answer = _change_machine(hub, name, "rotate")
    _say_given(hub, answer, as_json=as_json)


@machine.command("bind", short_help="Bind NAME to workflows and repositories.")
@asks_hub
@click.option(
    "--workflow", "workflows", multiple=True, help="A workflow; may be repeated."
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    help="OWNER/NAME, in which * stands for anything; may be repeated.",
)
@click.option("--any", "is_free", is_flag=True, help="Bind it to nothing any more.")
@click.argument("name", callback=not_blank)
def bind_machine(
    hub: HubClient,
    *,
    as_json: bool,
    workflows: Sequence[str],
    repositories: Sequence[str],
    is_free: bool,
    name: str,
) -> None:
    """Bind the machine NAME: it gets jobs of these workflows and repositories alone.

    Replaces what it was bound to; without one of the options any workflow, or any repository, counts. The jobs
    that it has continue.
    """
    if is_free == bool(workflows or repositories):
        raise UsageError(
            cannot=f"bind machine {name}",
            reason="give --workflow or --repository, or --any alone",
        )
    body = {
        "workflows": list(workflows) or None,
        "repositories": list(repositories) or None,
    }
    answer = _change_machine(hub, name, "bind", body)
    say(answer, f"{name}  bound to {_bound(answer)}", as_json=as_json)


@machine.command("revoke", short_help="Revoke machine NAME.")
@asks_hub
@yes_option
@click.argument("name", callback=not_blank)
def revoke_machine(hub: HubClient, *, as_json: bool, yes: bool, name: str) -> None:
    """Revoke machine NAME. It can no longer pull or report jobs. On a terminal it asks first."""
    confirm(f"Revoke machine {name}? It can no longer pull or report jobs.", yes=yes)
    answer = _change_machine(hub, name, "revoke")
    say(answer, f"{name}  {answer['state']}", as_json=as_json)


@click.group()
def token() -> None:
    """Access of people and programs to the hub."""


@token.command("add")
@asks_hub
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["submit", "read", "admin"]),
    help="What it is for; may be repeated.",
)
@click.argument("name", callback=not_blank)
def add_token(
    hub: HubClient,
    *,
    as_json: bool,
    scopes: Sequence[str],
    name: str,
) -> None:
    """Make a token called NAME, and print it; it is shown only once."""
    answer = hub.ask(
        "POST",
        "/api/v1/tokens",
        {"name": name, "scopes": list(scopes)},
        cannot=f"add token {name}",
        contract="hub-token",
    )
    say(answer, answer["token"], as_json=as_json)
    next_step(
        "Keep it: it isn't shown again. Use it as $DISPATCHD_HUB_TOKEN, or from a file with --token-file."
    )


@token.command("revoke")
@asks_hub
@yes_option
@click.argument("name", callback=not_blank)
def revoke_token(hub: HubClient, *, as_json: bool, yes: bool, name: str) -> None:
    """Revoke token NAME. On a terminal it asks first."""
    confirm(f"Revoke token {name}? Whoever uses it is refused from now on.", yes=yes)
    hub.ask(
        "POST", f"/api/v1/tokens/{in_path(name)}/revoke", cannot=f"revoke token {name}"
    )
    say({"name": name, "state": "revoked"}, f"{name}  revoked", as_json=as_json)


@token.command("list")
@asks_hub
def list_tokens(hub: HubClient, *, as_json: bool) -> None:
    """List tokens; secrets are never shown."""
    rows = hub.rows("/api/v1/tokens", "tokens", "hub-token", cannot="list tokens")
    empty = "No tokens. Add one: dispatchd hub token add NAME --scope read"
    print_rows(rows, _TOKEN_COLUMNS, _token_row, as_json=as_json, empty=empty)


COMMANDS: Final = (machines, machine, token)
"""Commands of this module for the group `hub`."""


def _change_machine(
    hub: HubClient, name: str, what: str, body: object = None
) -> dict[str, Any]:
    return hub.ask(
        "POST",
        f"/api/v1/machines/{in_path(name)}/{what}",
        body,
        cannot=f"{what} machine {name}",
        contract="hub-machine",
    )


def _machine_row(machine: dict[str, Any]) -> tuple[str, ...]:
    return (
        machine["name"],
        machine["state"],
        _seen(machine["seen_at"]),
        _runs(machine),
        # Numbers stand below each other.
        f"{_free(machine.get('free_bytes', 0)):>8}",
        ", ".join(machine["workflows"] or ["any"]),
        _bound(machine),
        machine["server_id"],
    )


def _token_row(token: dict[str, Any]) -> tuple[str, ...]:
    return (
        token["name"],
        " ".join(token["scopes"]),
        when(token["created_at"]),
        when(token["revoked_at"]),
    )


def _seen(at: float) -> str:
    return ago(age_s(at) if at else None)


def _runs(machine: dict[str, Any]) -> str:
    """Return how many of a machine's slots are busy; a machine or a hub of an earlier release says nothing of them."""
    slots = machine.get("slots")
    return f"{machine['running']} of {slots}" if slots else ""


def _free(free_bytes: int) -> str:
    return "none" if free_bytes == 1 else size(free_bytes) if free_bytes else ""


def _bound(machine: dict[str, Any]) -> str:
    """Return the binding of a machine, in words; an earlier release of the hub sends none."""
    names = (
        ("workflows", machine.get("bound_workflows")),
        ("repositories", machine.get("bound_repositories")),
    )
    bindings = [
        f"{kind} {', '.join(patterns)}"
        for kind, patterns in names
        if patterns is not None
    ]
    return "; ".join(bindings) or "any"


def _say_given(hub: HubClient, machine: dict[str, Any], *, as_json: bool) -> None:
    """Print the secrets or keys that a machine was given."""
    if as_json:
        print_json(machine)
        return
    join_key = machine.get("join_key")
    of_key = () if join_key else ("enrolment_key", "fingerprint")
    names = ("name", "server_id", "license_id", "secret", *of_key)
    pairs = {name.replace("_", " "): str(machine.get(name) or "") for name in names}
    if join_key:
        pairs["valid until"] = when(machine["key_expires_at"])
    print_pairs(pairs)
    if join_key:
        echo(f"\nOn that machine{_from_elsewhere(hub.url)}:\n")
        echo(f"dispatchd join {hub.url} {join_key}")
    elif "public_key" in machine:
        # Of a hub of an earlier release.
        echo(
            f"The key is valid until {when(machine['key_expires_at'])}.\n"
            "On the machine, pin this as license.public_keys:\n"
        )
        click.echo(machine["public_key"], nl=False)
    elif "secret" in machine:
        next_step(
            "\nNext, on the machine: put the secret into a file, and name it as cloud.secret_file in config.toml."
        )


def _from_elsewhere(url: str) -> str:
    from dispatchd.network.proxies import is_loopback, parsed

    if not is_loopback(parsed(url).host):
        return ""
    return " (if it is another one, with the address by which it reaches this hub)"
