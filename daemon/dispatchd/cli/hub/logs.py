"""`dispatchd hub logs [-f] JOB`: the log of a job as the hub has it, also while it grows."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import click
from attrs import define, field

from dispatchd.cli.hub.client import HubClient, asks_hub, in_path
from dispatchd.cli.hub.lookup import job_id_of
from dispatchd.cli.hub.patience import patiently
from dispatchd.cli.options import not_blank, print_json, raw_option
from dispatchd.cli.terminal import LogFilter, echo
from dispatchd.redaction.escapes import coloured

_WAIT_S: Final = 20
"""Time for which the hub may hold a question (seconds)."""

_COUNTS: Final = ("log-size", "log-parts")
"""Headers of the hub's answer that are numbers."""

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
    log = _Log(hub, job, attempt or 1, follows=follow)
    if as_json:
        text = b"".join(piece for _, piece in log.pieces(only=attempt is not None))
        print_json({"job": job, "output": text.decode(errors="replace")})
    else:
        _print(log, only=attempt is not None, raw=raw)
    ask = partial(_document, hub, job)
    document = patiently(ask) if follow else ask()
    if not (log.has_text or as_json):
        _print_tail(document)
    if follow and document["state"] not in _WELL:
        ctx.exit(1)


def _print(log: "_Log", *, only: bool, raw: bool) -> None:
    printed, safe = 0, LogFilter()
    for number, piece in log.pieces(only=only):
        if printed and number != printed:
            click.echo(safe.feed(b"", last=True), nl=False)
            safe = LogFilter()
            echo(f"dispatchd: attempt {number} of job {log.job_id}:", err=True)
        printed = number
        click.echo(piece if raw else safe.feed(piece), nl=False)
    click.echo(safe.feed(b"", last=True), nl=False)


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
        echo("dispatchd: its machine has sent no log", err=True)
    else:
        echo("dispatchd: no log has come yet; follow it with -f", err=True)


@define
class _Log:
    """Log of a job, asked for piece by piece."""

    _hub: HubClient
    job_id: str
    _part: int
    _follows: bool = field(kw_only=True)
    has_text: bool = field(default=False, init=False)

    def pieces(self, *, only: bool) -> Iterator[tuple[int, bytes]]:
        """Yield pieces with the numbers of their attempts.

        Args:
            only: True for one attempt alone.
        """
        offset = 0
        while True:
            piece, headers = self._ask(offset)
            if piece:
                self.has_text = True
                yield self._part, piece
            offset += len(piece)
            size, parts = int(headers["log-size"]), int(headers["log-parts"])
            has_more = (bool(piece) and offset < size) or (
                self._follows and headers.get("log-complete") != "1"
            )
            if has_more:
                continue
            if only or self._part >= parts:
                return
            self._part, offset = self._part + 1, 0

    def _ask(self, offset: int) -> tuple[bytes, Mapping[str, str]]:
        """Return the next piece. While a log is followed, a hub may be away for a while.

        Raises:
            NotReachable: The hub doesn't answer.
        """
        wait = f"&wait={_WAIT_S}" if self._follows else ""
        path = f"/api/v1/jobs/{in_path(self.job_id)}/log?part={self._part}&offset={offset}{wait}"
        cannot = f"show the log of {self.job_id}"
        ask = partial(self._hub.text, path, _COUNTS, cannot=cannot)
        return patiently(ask) if self._follows else ask()
