"""`dispatchd hub webhooks` and `webhook test`: the hooks of senders beside GitHub, and what a delivery would start."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dispatchd.cli.hub.client import (
    HubClient,
    asks_hub,
    config_option,
    print_rows,
    when,
)
from dispatchd.cli.hub.database import require_extra
from dispatchd.cli.options import json_option, print_json, read_text
from dispatchd.cli.screen.table import Column, Kind, print_pairs
from dispatchd.errors import ContractViolation, UsageError
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import loads

if TYPE_CHECKING:
    from dispatchd.hub.config.webhooks import Webhook

_COLUMNS: Final = (
    Column("HOOK"),
    Column("URL", Kind.WHOLE),
    Column("SENDER"),
    Column("WORKFLOW"),
    Column("LAST", Kind.WHOLE),
    Column("RESULT"),
)


@click.command(short_help="List webhooks, with their newest deliveries.")
@asks_hub
def webhooks(hub: HubClient, *, as_json: bool) -> None:
    """List the hooks of the hub's configuration ([[webhooks]]), with their newest deliveries."""
    rows = hub.rows(
        "/api/v1/webhooks", "webhooks", "hub-webhook", cannot="list webhooks"
    )

    def row(webhook: dict[str, Any]) -> tuple[str, ...]:
        return (
            webhook["name"],
            f"{hub.page_url.rstrip('/')}{webhook['path']}",
            webhook["sender"],
            webhook["workflow"],
            when(webhook["received_at"]),
            _result(webhook),
        )

    empty = "No webhooks. Add [[webhooks]] to hub.toml, and restart the hub."
    print_rows(rows, _COLUMNS, row, as_json=as_json, empty=empty)


@click.group()
def webhook() -> None:
    """Try a webhook of the hub's configuration."""


@webhook.command("test", short_help="Explain what a delivery would start.")
@config_option
@json_option
@click.option(
    "--header",
    "given",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header of the delivery, such as X-Gitea-Event:push.",
)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def test(
    config_file: Path, *, as_json: bool, given: Sequence[str], name: str, file: Path
) -> None:
    """Explain what a delivery with the payload in FILE would start at the hook NAME, without doing it.

    The proof of a delivery is not looked at.
    """
    require_extra()
    from dispatchd.hub.api.webhooks import kept_headers
    from dispatchd.hub.config.load import load
    from dispatchd.hub.domain.webhooks.delivery import read_event, reason_against
    from dispatchd.hub.queue.webhooks import Arrival, submission_of

    hook = _hook(load(config_file).webhooks, name, config_file)
    headers = dict(_header(each) for each in given)
    payload = _payload(file)
    event = read_event(hook.form, headers, payload)
    reason = reason_against(hook.wanted, event)
    arrival = Arrival(
        webhook=hook,
        event=event,
        payload="",
        headers=kept_headers(hook.form, headers),
        payload_hash="",
    )
    job = None if reason else dict(submission_of(arrival, event.id).document)
    if job is not None and not event.id:
        # Its body and its time make it.
        del job["id"]
    report: dict[str, Json] = {
        "hook": hook.name,
        "delivery": event.id or None,
        "event": event.name or None,
        "action": event.action or None,
        "repository": event.repository or None,
        "ignored": reason or None,
        "job": job,
    }
    if as_json:
        print_json(report)
        return
    shown = {key: value for key, value in report.items() if value and key != "job"}
    print_pairs({key: str(value) for key, value in shown.items()})
    if job is not None:
        print_pairs({f"job {key}": str(value) for key, value in job.items()})


def _result(webhook: dict[str, Any]) -> str:
    """Return what became of the newest delivery."""
    if webhook["state"] == "ignored":
        return f"ignored: {webhook['routing']}"
    return " ".join((webhook["state"], *webhook["job_ids"])).strip()


def _hook(webhooks: "Sequence[Webhook]", name: str, config_file: Path) -> "Webhook":
    for hook in webhooks:
        if hook.name == name:
            return hook
    names = ", ".join(hook.name for hook in webhooks) or "none"
    reason = f"{config_file} has no [[webhooks]] of this name; it has: {names}"
    raise UsageError(cannot=f"try the hook {name}", reason=reason)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        reason = "it must be NAME:VALUE, such as X-Gitea-Event:push"
        raise UsageError(cannot=f"use --header {text}", reason=reason)
    return name.strip().lower(), value.strip()


def _payload(file: Path) -> Json:
    try:
        return loads(read_text(file))
    except ContractViolation as violation:
        reason = f"{violation.path} {violation.rule}"
        raise UsageError(cannot=f"use {file}", reason=reason) from violation
