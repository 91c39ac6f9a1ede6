"""`dispatchd hub logs [-f] JOB`: the log of a job as the hub has it, also while it grows."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from dispatchd.cli.hub.client import HubClient, asks_hub
from dispatchd.cli.hub.lookup import job_id_of
from dispatchd.cli.hub.patience import patiently
from dispatchd.cli.options import not_blank, print_json, raw_option
from dispatchd.cli.terminal import LogFilter, complain
from dispatchd.network.request_target import in_path
from dispatchd.redaction.escapes import coloured

if TYPE_CHECKING:
    from dispatchd.client import LogPiece

_WELL: Final = ("succeeded", "partially_succeeded")


@click.command(short_help="Print the log of JOB.")
@asks_hub
@raw_option
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow the log, and that of further attempts, until the job has ended.",
)
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    help="Only the log of one attempt, by its place among those of the job.",
)
@click.argument("job", callback=not_blank)
@click.pass_context
def logs(
    ctx: click.Context,
    hub: HubClient,
    *,
    as_json: bool,
    raw: bool,
    follow: bool,
    attempt: int | None,
    job: str,
) -> None:
    """Print the log of JOB: what its command wrote on its machine, without secrets.

    With --follow, the exit code is 0 if the job has succeeded, and 1 if it has ended in another way.
    """
    job = job_id_of(hub, job)
    with hub.calls(f"show the log of {job}") as calls:
        pieces = calls.log_pieces(job, attempt=attempt, follow=follow)
        if as_json:
            text = b"".join(piece.data for piece in pieces)
            print_json({"job": job, "output": text.decode(errors="replace")})
            has_text = bool(text)
        else:
            has_text = _print(job, pieces, raw=raw)
    ask = partial(_document, hub, job)
    document = patiently(ask) if follow else ask()
    if not (has_text or as_json):
        _print_tail(document)
    if follow and document["state"] not in _WELL:
        ctx.exit(1)


def _print(job: str, pieces: "Iterable[LogPiece]", *, raw: bool) -> bool:
    """Print a log, and return whether there is any."""
    printed, safe = 0, LogFilter()
    for piece in pieces:
        if printed and piece.attempt != printed:
            click.echo(safe.feed(b"", last=True), nl=False)
            safe = LogFilter()
            complain(f"attempt {piece.attempt} of job {job}:")
        printed = piece.attempt
        click.echo(piece.data if raw else safe.feed(piece.data), nl=False)
    click.echo(safe.feed(b"", last=True), nl=False)
    return bool(printed)


def _document(hub: HubClient, job: str) -> dict[str, Any]:
    return hub.ask(
        "GET",
        f"/api/v1/jobs/{in_path(job)}",
        cannot=f"show job {job}",
        contract="hub-job",
    )


def _print_tail(document: Mapping[str, Any]) -> None:
    """Print what a machine without logs has sent: the end of the output, with the outcome."""
    output = str(document.get("result_output") or "")
    if output:
        click.echo(coloured(output))
    elif document["ended"]:
        complain("its machine has sent no log")
    else:
        complain("no log has come yet; follow it with -f")
