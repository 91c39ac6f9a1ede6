"""Texts about a job for people at GitHub: title, summary and text of its check run."""

import re
import shlex
from collections.abc import Mapping
from typing import Final

from dispatchd.hub.domain.model import ENDED, HubJob, State
from dispatchd.hub.domain.result_details import Details
from dispatchd.hub.github.checks.conclusions import Standing
from dispatchd.redaction.invisible import without_sequences
from dispatchd.redaction.redactor import MARK, Redactor
from dispatchd.redaction.truncate import (
    MOST_BYTES,
    clip_line,
    clip_markdown,
    fenced,
    size,
)

TITLE_MOST: Final = 255
"""Longest title (characters)."""

_OUTPUTS_BYTES: Final = 24 * 1024
"""Most of the text that the table of outputs may take (bytes); the rest is for the log."""

_VALUE_MOST: Final = 300
"""Longest value of an output in the table (characters)."""

_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")
"""Characters with a meaning in Markdown; a backslash escapes them (CommonMark, 2.4)."""

_GOING_ON: Final[Mapping[State, str]] = {
    State.RECEIVED: "The job is stored; it is handed out once that is confirmed.",
    State.QUEUED: "The job waits for a machine.",
    State.CLAIMED: "The job waits for its machine to accept it.",
    State.ACCEPTED: "A machine has accepted the job.",
    State.RUNNING: "A machine runs the job.",
}


def title(job: HubJob, standing: Standing, redactor: Redactor) -> str:
    """Return the title: the job's state, and the first line of its machine's summary."""
    ended = job.result_summary if job.state in ENDED else ""
    said = job.reason if job.state is State.NEEDS_ATTENTION else ended
    first = clean(said, redactor).strip().split("\n", 1)[0]
    return clip_line(
        f"{standing.title}: {first}" if first else standing.title, TITLE_MOST
    )


def summary(
    job: HubJob, details: Details, standing: Standing, redactor: Redactor
) -> str:
    """Return the summary, in Markdown; never empty."""
    said = clean(_said(job, details), redactor)
    ending = redactor.scrub(_ending(job, standing))
    room = MOST_BYTES - size(ending) - 2
    return f"{clip_markdown(said, room)}\n\n{ending}" if said.strip() else ending


def text(job: HubJob, details: Details, redactor: Redactor) -> str:
    """Return outputs and the end of the log, in Markdown; empty where there is neither."""
    parts: list[str] = []
    if details.outputs:
        parts.append(_table(details.outputs, redactor))
    log = clean(job.result_output, redactor).strip("\n")
    if log and job.state in ENDED:
        head = "### End of the output\n\n"
        room = MOST_BYTES - sum(size(part) + 2 for part in parts) - len(head)
        block = fenced(log, room)
        parts += [head + block] if block else []
    return "\n\n".join(parts)


def clean(text: str, redactor: Redactor) -> str:
    """Return a text without secrets, and without terminal sequences.

    It is redacted before the sequences are removed, because the last letter of one may be the first of a secret. It is
    redacted again after that, because a sequence may stand between a key and its value.
    """
    # Piece by piece, so that no sequence extends into a mark.
    pieces = redactor.scrub(text).split(MARK)
    return redactor.scrub(MARK.join(map(plain, pieces)))


def plain(text: str) -> str:
    """Return a text without terminal sequences."""
    return without_sequences(text)


def _said(job: HubJob, details: Details) -> str:
    """Return the first part of a summary: the machine's own words where it has any."""
    if job.state is State.NEEDS_ATTENTION:
        return job.reason or "The job waits for a person to decide."
    if job.state in ENDED:
        return details.step_summary or job.result_summary
    return _GOING_ON[job.state]


def _ending(job: HubJob, standing: Standing) -> str:
    """Return the last lines of a summary: what to do, the meaning of the conclusion, and the job."""
    lines: list[str] = []
    if job.state is State.NEEDS_ATTENTION:
        at_hub = "hub " if job.parked else ""
        command = f"dispatchd {at_hub}resolve {shlex.quote(job.id)}"
        how = f"{_code(command)} with `--retry`, `--fail` or `--succeed`"
        if job.parked:
            lines.append(f"To decide: the buttons of this check, or {how}")
        else:
            lines.append(f"To decide, on the job's machine: {how}")
    if standing.check_state == "neutral":
        lines.append("Part of it was done. A neutral check doesn't block a merge.")
    if job.state in ENDED and job.result_cause:
        lines.append(f"Cause: {_code(job.result_cause)}")
    workflow = f", workflow {_code(job.workflow)}" if job.workflow else ""
    lines.append(f"Job {_code(job.id)}{workflow}")
    return "\n\n".join(lines)


def _code(content: str) -> str:
    return f"`{clip_line(plain(content), TITLE_MOST).replace('`', chr(39))}`"


def _table(outputs: Mapping[str, str], redactor: Redactor) -> str:
    rows = ["### Outputs\n", "| name | value |", "| --- | --- |"]
    room = _OUTPUTS_BYTES
    for name, value in outputs.items():
        shown = clean(name, redactor)
        # As one text, so that redaction by the name of a secret also finds its value.
        row = clean(f"{name}={value}", redactor)
        line = f"| {_cell(shown)} | {_cell(row.removeprefix(f'{shown}='))} |"
        room -= size(line) + 1
        if room < 0:
            rows.append("| ... | (more than is shown here) |")
            break
        rows.append(line)
    return "\n".join(rows)


def _cell(content: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", clip_line(content, _VALUE_MOST))
