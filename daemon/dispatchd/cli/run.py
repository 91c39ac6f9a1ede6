"""`dispatchd run`: the daemon in the foreground."""

import os
from pathlib import Path

import click

from dispatchd.cli.options import config_option, load_config


@click.command()
@config_option
def run(config_file: Path | None) -> None:
    """Run the daemon in the foreground.

    SIGTERM, or Ctrl-C once: take no more jobs and stop; commands that run stay alive, and the next
    daemon reports how they end. Ctrl-C twice: end them first.
    """
    import anyio

    from dispatchd.app import serve
    from dispatchd.outward import check_outward

    config = load_config(config_file)
    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    check_outward(config, environment)

    async def run_daemon() -> None:
        await serve(config, environment=environment)

    anyio.run(run_daemon)
