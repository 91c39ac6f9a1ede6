"""`dispatchd doctor`: check everything that has to work, and say what to do if it doesn't."""

import os
from pathlib import Path

import click

from dispatchd.cli.findings import conclude, gather
from dispatchd.cli.options import config_option, json_option, load_config
from dispatchd.protocol.finding import Finding


@click.command()
@config_option
@json_option
def doctor(config_file: Path | None, *, as_json: bool) -> None:
    """Check configuration, folders, disk, proxy, TLS, license, endpoint and clock.

    Each line is ok, warning or failed, with what to do. The exit code is that of the worst: 0, 1 or 2. It asks
    the endpoint about a job that doesn't exist, so it takes no work. It repeats what a running daemon warns of.
    """
    import anyio

    from dispatchd.linux.log import silence

    silence()
    findings = anyio.run(_findings, config_file, as_json)
    conclude(findings, as_json=as_json)


async def _findings(config_file: Path | None, quiet: bool) -> list[Finding]:  # noqa: FBT001  # anyio.run takes no keywords
    from dispatchd.agent.doctor import check_up

    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    return await gather(
        lambda: load_config(config_file),
        lambda config: check_up(config, environment),
        quiet=quiet,
    )
