"""`dispatchd demo`: the main job end to end, with a hub and a daemon of its own on this machine."""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import click

from dispatchd.cli.options import print_json
from dispatchd.cli.screen.table import Column, Kind, print_table

_COLUMNS: Final = (
    Column("JOB"),
    Column("OUTCOME", Kind.STATE),
    Column("AS EXPECTED"),
    Column("OUTPUT"),
)


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the outcomes as JSON instead of a table.",
)
def demo(*, as_json: bool) -> None:
    """Show the main job end to end: a hub, a daemon, and real GitHub payloads, on this machine alone.

    Exits with 0 only if every job ends as it should.
    """
    import anyio

    from dispatchd.cli.demo_play import play

    folder = Path(tempfile.mkdtemp(prefix="dispatchd-demo-"))
    results = anyio.run(partial(play, folder, quiet=as_json))
    if as_json:
        print_json(
            [
                {
                    "job": result.act.job_id,
                    "outcome": result.outcome,
                    "summary": result.summary,
                }
                for result in results
            ]
        )
    else:
        rows = [
            (
                r.act.job_id,
                r.outcome,
                "yes" if r.as_expected else f"NO, {r.act.outcome}",
                r.log,
            )
            for r in results
        ]
        click.echo()
        print_table(_COLUMNS, rows)
        click.echo(
            f"\nEverything is kept in {folder}; the daemon's log is {folder / 'daemon.log'}."
        )
    if not all(result.as_expected for result in results):
        sys.exit(1)
