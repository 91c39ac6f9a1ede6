"""Output of findings of checks; the exit code is that of the worst."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NoReturn, TypeVar

from dispatchd.cli.brand import branded
from dispatchd.cli.options import print_json
from dispatchd.cli.screen.colour import painted
from dispatchd.cli.screen.colour import show as print_line
from dispatchd.cli.screen.table import wrapped
from dispatchd.errors import ConfigError
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.job import Json
from dispatchd.redaction.escapes import written_out

_LEVEL: Final = 8
_CHECK: Final = 14
"""Widths of the columns before the message (characters)."""

T = TypeVar("T")


def show(finding: Finding) -> None:
    """Print a finding on a line of its own."""
    level = finding.level.name.lower()
    lines = wrapped(branded(written_out(finding.message)), _LEVEL + _CHECK)
    beginning = painted(f"{level:{_LEVEL}}", level) + f"{finding.check:{_CHECK}}"
    for number, line in enumerate(lines):
        print_line((" " * (_LEVEL + _CHECK) if number else beginning) + line)


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


def documents(findings: Sequence[Finding]) -> list[Json]:
    """Return findings as JSON."""
    return [
        {
            "check": finding.check,
            "level": finding.level.name.lower(),
            "message": finding.message,
        }
        for finding in findings
    ]


def conclude(findings: Sequence[Finding], *, as_json: bool) -> NoReturn:
    """Print findings as JSON if wanted, and exit: 0 ok, 1 a warning, 2 a failure."""
    if as_json:
        print_json(documents(findings))
    sys.exit(max(finding.level for finding in findings))
