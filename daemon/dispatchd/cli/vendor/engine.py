"""`dispatchd engine check`: judge an engine of the configuration by the rules that all engines keep."""

import os
import signal
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dispatchd.cli.options import (
    config_option,
    finite,
    json_option,
    load_config,
    print_json,
)
from dispatchd.cli.terminal import echo
from dispatchd.cli.vendor.judgements import (
    document,
    print_counts,
    print_rules,
    write_junit,
)

if TYPE_CHECKING:
    from dispatchd.judging.judgement import Judgement

_PASSED, _BROKEN = 0, 1
"""Exit codes: no rule is broken, or one is."""


@click.group()
def engine() -> None:
    """Check what executes runs."""


@engine.command()
@click.argument("name")
@config_option
@click.option(
    "--down-command",
    default="",
    help="Command that makes the engine unreachable, for rule 2.7.",
)
@click.option("--up-command", default="", help="Command that makes it reachable again.")
@click.option(
    "--listing-command",
    default="",
    help="Command that prints what others see of its runs, which is searched for a secret.",
)
@click.option(
    "--patience",
    type=click.FloatRange(1, 3600),
    callback=finite,
    default=90.0,
    show_default=True,
    help="Longest time for a run to begin, or to end, in seconds.",
)
@click.option(
    "--junit", type=click.Path(path_type=Path), help="Write JUnit's XML there."
)
@json_option
def check(
    name: str,
    config_file: Path | None,
    down_command: str,
    up_command: str,
    listing_command: str,
    patience: float,
    junit: Path | None,
    *,
    as_json: bool,
) -> None:
    """Judge the engine NAME of the configuration, or local, by each rule of an engine.

    It starts runs of its own there, as a daemon does, kills daemons of its own in between, and ends all that it has
    started, also at Ctrl-C and SIGTERM. A running daemon isn't disturbed, but for the slots of the engine. Exit code: 0 if
    no rule is broken, else 1.
    """
    import anyio

    from dispatchd.agent.engine_check.bench import Commands
    from dispatchd.agent.engine_check.run import Settings, run_until_signal
    from dispatchd.linux.log import silence

    silence()
    settings = Settings(
        config=load_config(config_file),
        name=name,
        environment=dict(os.environ),  # noqa: TID251  # the command line is where the environment comes in
        patience_s=patience,
        commands=Commands(down=down_command, up=up_command, listing=listing_command),
    )

    judgements: list[Judgement] = []

    def heard(judgement: "Judgement") -> None:
        judgements.append(judgement)
        if not as_json:
            print_rules([judgement])

    # An engine may print, and nothing reads that with the document.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        number = anyio.run(run_until_signal, settings, heard)
    ended = f"{signal.Signals(number).name} has ended it" if number else ""
    if as_json:
        rules = document(judgements)
        print_json({"engine": name, "ended_early": ended, "rules": rules})
    else:
        echo(f"\nThe check ended early: {ended}" if ended else "")
        print_counts(judgements)
    if junit is not None:
        write_junit(junit, "engine", name, judgements, ended)
    is_broken = any(each.verdict == "broken" for each in judgements)
    sys.exit(128 + number if number else _BROKEN if is_broken else _PASSED)
