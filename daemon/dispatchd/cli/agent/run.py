"""`dispatchd run`: the daemon in the foreground."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import click

from dispatchd.agent.config.load import Config
from dispatchd.cli.imports import without_collection
from dispatchd.cli.options import config_option, load_config
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
        import anyio

        from dispatchd.agent.endpoint.open import check_outward
        from dispatchd.agent.serve import serve
        from dispatchd.agent.wiring import Surroundings
        from dispatchd.concurrency.own_threads import end_if_left
        from dispatchd.linux.kernel import forbid_tracing
        from dispatchd.linux.log import configure
        from dispatchd.redaction.known_secrets import KnownSecrets

    def reread() -> Config:
        again = load_config(config_file)
        check_outward(again, environment)
        return again

    # A reload finds the file again even if this folder is moved.
    if config_file is not None and not config_file.is_absolute():
        config_file = config_file.parent.resolve() / config_file.name
    # A run has this user's uid, but must not read the daemon's memory or environment.
    forbid_tracing()
    config = load_config(config_file)
    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    check_outward(config, environment)
    known = KnownSecrets()
    configure(
        config.log.level,
        config.log.format,
        known=known,
        under_systemd="JOURNAL_STREAM" in environment,
        colours=is_coloured(sys.stdout),
    )

    async def run_daemon() -> None:
        with anyio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP
        ) as signals:
            given = Surroundings(
                environment=environment,
                signals=signals,
                reread=reread,
                known=known,
                end=partial(os._exit, os.EX_OK),
            )
            await serve(config, given)

    anyio.run(run_daemon)
    end_if_left(os.EX_OK)
