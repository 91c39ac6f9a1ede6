"""What checks have found, printed; the exit code is that of the worst."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from dispatchd.cli.options import print_json
from dispatchd.domain.finding import Finding


def show(finding: Finding) -> None:
    """Print a finding on a line of its own."""
    level = finding.level.name.lower()
    click.echo(f"{level:8}{finding.check:14}{finding.words}")


def conclude(findings: Sequence[Finding], *, as_json: bool) -> NoReturn:
    """Print findings as JSON, where that is wanted, and exit: 0 ok, 1 a warning, 2 a failure."""
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
