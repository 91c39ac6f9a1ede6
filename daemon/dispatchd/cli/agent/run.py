"""`dispatchd run`: the daemon in the foreground."""

import sys
from pathlib import Path

import click

from dispatchd.cli.brand import brand
from dispatchd.cli.imports import without_collection
from dispatchd.cli.options import config_option
from dispatchd.cli.screen.colour import is_coloured
from dispatchd.linux.pid1 import leave_orphans_to_init


@click.command()
@config_option
def run(config_file: Path | None) -> None:
    """Run the daemon in the foreground.

    SIGTERM, or Ctrl-C once: stop taking jobs and exit; commands that run stay alive, and the next
    daemon reports how they end (unless runs.on_shutdown says otherwise). Ctrl-C twice: end them first.
    SIGHUP: read the configuration again.
    """
    # First, so that the process that stays behind as init is small.
    leave_orphans_to_init()
    with without_collection():
        from dispatchd.agent import Agent

    Agent(config_file, brand=brand()).main(colours=is_coloured(sys.stdout))
