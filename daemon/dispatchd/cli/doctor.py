"""`dispatchd doctor`: does everything work that has to, and what to do where it doesn't."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from dispatchd.cli.options import config_option, json_option, load_config, print_json
from dispatchd.errors import ConfigError


@click.command()
@config_option
@json_option
def doctor(config_file: Path | None, *, as_json: bool) -> None:
    """Check configuration, folders, disk, proxy, TLS, license, endpoint and clock.

    Each line is ok, warning or failed, with what to do. The exit code is that of the worst: 0, 1 or 2. It asks
    the endpoint about a job that doesn't exist, so it takes no work.
    """
    import anyio

    from dispatchd.log import silence

    silence()
    findings = anyio.run(_findings, config_file, as_json)
    if as_json:
        print_json(
            [
                {
                    "check": each.check,
                    "level": each.level.name.lower(),
                    "words": each.words,
                }
                for each in findings
            ]
        )
    sys.exit(max(each.level for each in findings))


async def _findings(config_file: Path | None, quiet: bool) -> list[Any]:  # noqa: FBT001  # anyio.run takes no keywords
    from dispatchd.checkup import Finding, Level, check_up

    found: list[Finding] = []

    def note(finding: Finding) -> None:
        found.append(finding)
        if not quiet:
            level = finding.level.name.lower()
            click.echo(f"{level:8}{finding.check:14}{finding.words}")

    try:
        config = load_config(config_file)
    except ConfigError as error:
        for problem in error.problems:
            note(Finding("config", Level.FAILED, str(problem)))
        return found
    async for finding in check_up(config, dict(os.environ)):  # noqa: TID251  # the command line is where the environment comes in
        note(finding)
    return found
