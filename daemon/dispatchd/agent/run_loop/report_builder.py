"""Compose: from the files that a command has written to its report, without secrets and within limits.

There are three texts of the command (output, step summary, outputs), the annotations of its result and of its log
commands, and the names of its phases and spans. The output is whatever it prints, so its owner may exclude that from
reports; the others are written to be reported.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from attrs import frozen

from dispatchd.agent.domain.run import log_commands, outputs, spans
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.store.evidence import command_lines, read_head, read_tail
from dispatchd.agent.store.runs import RunFolder
from dispatchd.protocol import report
from dispatchd.protocol.report import WITHHELD, Report
from dispatchd.protocol.result import Annotation, NoResult, RunResult
from dispatchd.redaction.redactor import REPORTED, Redactor, reported_tail

_SEEN_BEFORE: Final = 16 * 1024
"""Part of an output that is redacted before its reported end (characters), so that a secret across the cut
is seen whole."""

_READ: Final = 4 * REPORTED + _SEEN_BEFORE
"""Part of an output's end that is read (bytes; a character has up to 4, RFC 3629)."""


@frozen(kw_only=True)
class Timeline:
    """Events of an attempt, with the start of the run's first attempt and the end of this one."""

    story: Story
    begins: datetime
    ends: datetime


@frozen(kw_only=True)
class Composed:
    """Report, and the parts that were left out, with reasons (sentences without values, in the order of reading)."""

    report: Report
    left_out: tuple[str, ...] = ()


def compose(
    run: RunFolder,
    number: int,
    result: RunResult | NoResult | None,
    redactor: Redactor | None,
    *,
    timeline: Timeline,
    with_output: bool,
) -> Composed:
    """Return the report of an attempt. Blocks.

    Args:
        run: The folder of its run.
        number: The attempt's number.
        result: Result that a headless command left; None for a plain one.
        redactor: Removes the secrets; None if they are not known, so that nothing may be reported.
        timeline: Its events.
        with_output: True if its owner lets the output be reported.
    """
    output = _output(run, number, redactor) if with_output else ""
    summary, problems = _step_summary(run, number, redactor)
    parsed, more = _outputs(run, number)
    remarks = [*(result.annotations if isinstance(result, RunResult) else ())]
    if with_output:
        remarks += _remarks(run, number)
    if redactor is None:
        has_texts = summary or parsed.values or remarks
        withheld = Report(output=output, step_summary=WITHHELD if has_texts else "")
        return Composed(report=withheld)
    fitting = outputs.reported(parsed, redactor.scrub)
    return Composed(
        report=Report(
            output=output,
            step_summary=summary,
            outputs=fitting.values,
            annotations=report.annotations(remarks, redactor.scrub),
            spans=spans.reported(
                timeline.story, timeline.begins, timeline.ends, redactor.scrub
            ),
        ),
        left_out=(*problems, *more, *fitting.sentences),
    )


def _output(run: RunFolder, number: int, redactor: Redactor | None) -> str:
    text, before = read_tail(run.output_file(number), _READ)
    if not text:
        return ""
    if redactor is None:
        return WITHHELD
    seen = text[-(REPORTED + _SEEN_BEFORE) :]
    return reported_tail(seen, redactor, cut_before=before + len(text) - len(seen))


def _remarks(run: RunFolder, number: int) -> Iterator[Annotation]:
    lines = command_lines(run.output_file(number))
    found = log_commands.annotations(lines, str(run.workspace))
    return islice(found, report.MOST_ANNOTATIONS)


def _step_summary(
    run: RunFolder, number: int, redactor: Redactor | None
) -> tuple[str, tuple[str, ...]]:
    head = read_head(run.summary_file(number))
    problem = head.problem or ("it is larger than 1 MiB" if head.cut else "")
    if problem:
        # All or nothing, as in GitHub's runner: a huge file is hardly meant to be a summary.
        return "", (f"the step summary: {problem}",)
    scrub = str if redactor is None else redactor.scrub
    return report.step_summary(head.text, scrub), ()


def _outputs(run: RunFolder, number: int) -> tuple[outputs.Outputs, tuple[str, ...]]:
    head = read_head(run.outputs_file(number))
    problems = (f"the outputs: {head.problem}",) if head.problem else ()
    return outputs.parse(head.text, cut=head.cut), problems
