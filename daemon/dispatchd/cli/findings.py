"""Output of findings of checks; the exit code is that of the worst."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn, TypeVar

from dispatchd.cli.options import print_json
from dispatchd.cli.terminal import echo
from dispatchd.errors import ConfigError
from dispatchd.protocol.finding import Finding, Level

T = TypeVar("T")


def show(finding: Finding) -> None:
    """Print a finding on a line of its own."""
    level = finding.level.name.lower()
    echo(f"{level:8}{finding.check:14}{finding.message}")


async def gather(
    read: Callable[[], T],
    check: Callable[[T], AsyncIterator[Finding]],
    *,
    quiet: bool,
) -> list[Finding]:
    """Return the findings of checks; print each at once unless quiet. An invalid configuration is the only finding."""
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        if not quiet:
            show(finding)

    try:
        config = read()
    except ConfigError as error:
        for problem in error.problems:
            note(Finding("config", Level.FAILED, str(problem)))
        return findings
    async for finding in check(config):
        note(finding)
    return findings


def conclude(findings: Sequence[Finding], *, as_json: bool) -> NoReturn:
    """Print findings as JSON if wanted, and exit: 0 ok, 1 a warning, 2 a failure."""
    if as_json:
        print_json(
            [
                {
                    "check": finding.check,
                    "level": finding.level.name.lower(),
                    "message": finding.message,
                }
                for finding in findings
            ]
        )
    sys.exit(max(finding.level for finding in findings))
