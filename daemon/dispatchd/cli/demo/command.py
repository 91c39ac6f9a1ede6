"""`dispatchd demo`: what the program promises, played by a hub and a machine of its own."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dispatchd.cli.brand import brand
from dispatchd.cli.options import print_json
from dispatchd.cli.screen.colour import is_terminal
from dispatchd.cli.signals import EndedBySignal, ended_by_signals
from dispatchd.cli.terminal import echo

if TYPE_CHECKING:
    from dispatchd.cli.demo.acts import Result


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the outcomes as JSON instead of the play.",
)
@click.option(
    "--keep", is_flag=True, help="Leave hub and machine running until Ctrl-C."
)
def demo(*, as_json: bool, keep: bool) -> None:
    """Play the main job on this machine alone: real GitHub payloads, a daemon and a hub that are killed, a cancel.

    Takes about 30 s on a terminal, and no time to read elsewhere. Exits with 0 only if every job ends as it should.
    """
    from dispatchd.cli.hub.database import require_extra

    require_extra()
    folder = Path(tempfile.mkdtemp(prefix=f"{brand().name}-demo-"))
    all_well = False
    try:
        with ended_by_signals(), ExitStack() as closing:
            results = _played(folder, closing, quiet=as_json)
            all_well = all(result.as_expected for result in results)
            _sum_up(results, as_json=as_json)
            if keep and all_well:
                _stay(folder)
    except EndedBySignal:
        if not (keep and all_well):
            raise
    finally:
        if all_well and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            echo(f"Everything is kept in {folder}.", err=True)
    if not all_well:
        sys.exit(1)


def _played(folder: Path, closing: ExitStack, *, quiet: bool) -> "Sequence[Result]":
    from dispatchd.cli.demo.acts import Play
    from dispatchd.cli.demo.stage import Stage

    if not quiet:
        click.echo("A hub and a machine start on this computer.")
    stage = Stage.set_up(folder)
    closing.callback(stage.close)
    reads = not quiet and is_terminal(sys.stdout)
    play = Play(stage=stage, quiet=quiet, has_reader=reads)
    play.say(f"   hub        {stage.place.client.url}")
    play.say(f"   machine    pid {stage.machine.process.pid}, pulls; no port open")
    return play.play()


def _sum_up(results: "Sequence[Result]", *, as_json: bool) -> None:
    if as_json:
        jobs = [
            {"job": each.job_id, "outcome": each.outcome, "summary": each.summary}
            for each in results
        ]
        print_json(jobs)
        return
    wrong = [each for each in results if not each.as_expected]
    for each in wrong:
        echo(f"\n{each.job_id} ended otherwise: {each.outcome}. {each.summary}")
    if not wrong:
        click.echo(f"\n{len(results)} jobs, each started at most once and reported.")


def _stay(folder: Path) -> None:
    from dispatchd.cli.begin.installation import Installation
    from dispatchd.cli.hub.login import login_link

    place = Installation(folder)
    echo(f"""
The page, for 10 minutes and one login: {login_link(place.hub_file)}
The machine: dispatchd status --config {place.machine_file}
Ctrl-C ends both. They start again by: dispatchd quickstart {folder}""")
    signal.pause()
