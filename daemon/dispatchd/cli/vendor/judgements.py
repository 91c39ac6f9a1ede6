"""Judgements of a suite on the screen, as JSON, and as a file of JUnit's XML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dispatchd.cli.terminal import echo
from dispatchd.judging.judgement import Judgement

_COLOUR: Final = {"kept": "ok", "broken": "failed", "not judged": "ignored"}


def write_junit(
    file: Path,
    suite_name: str,
    about: str,
    judgements: Sequence[Judgement],
    ended: str = "",
) -> None:
    """Write JUnit's XML of a suite about something."""
    from dispatchd.cli.service.stamp import write
    from dispatchd.judging.junit import junit_xml

    write(file, junit_xml(suite_name, about, judgements, ended))


def document(judgements: Sequence[Judgement]) -> list[dict[str, str]]:
    """Return judgements as JSON."""
    return [
        {
            "number": judgement.rule.number,
            "rule": judgement.rule.words,
            "verdict": judgement.verdict.value,
            "reason": judgement.reason,
        }
        for judgement in judgements
    ]


def print_rules(judgements: Sequence[Judgement]) -> None:
    """Print a line for each rule."""
    from dispatchd.cli.screen.colour import painted, show
    from dispatchd.cli.screen.table import wrapped
    from dispatchd.redaction.escapes import written_out

    for judgement in judgements:
        verdict = judgement.verdict.value
        beginning = (
            painted(f"{verdict:<12}", _COLOUR[verdict]) + f"{judgement.rule.number:<6}"
        )
        reason = f" ({written_out(judgement.reason)})" if judgement.reason else ""
        lines = wrapped(judgement.rule.words + reason, 18)
        for number, line in enumerate(lines):
            show((" " * 18 if number else beginning) + line)


def print_counts(judgements: Sequence[Judgement]) -> None:
    """Print how many rules have which verdict."""
    counts = dict.fromkeys(_COLOUR, 0)
    for judgement in judgements:
        counts[judgement.verdict.value] += 1
    numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
    echo(f"Rules: {numbers}")
