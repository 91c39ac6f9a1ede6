"""What is reported of an attempt beside its verdict, and the limits of it.

Everything in here has been written by a command, and leaves the machine: it is scrubbed first and cut then,
so that no cut leaves half of a secret.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import Factory, evolve, frozen

from dispatchd.domain.result import Annotation

LONGEST_STEP_SUMMARY: Final = 65_535
"""What is reported of a step summary (bytes of UTF-8): as much as the summary of a check run at GitHub takes."""

MOST_ANNOTATIONS: Final = 200
"""How many annotations are reported (count): the first ones."""

LONGEST_TEXT: Final = 4000
"""What is reported of a summary, and of the message of an annotation (characters)."""

_LAST_LINE: Final = 2**31 - 1
"""Beyond it a number is no line of a file, and no whole number for many readers."""

_LONGEST_FENCE: Final = 80
"""Longest mark of a code block that is closed where the text is cut (characters)."""

_ROOM: Final = 256
"""What is kept free for a closing fence and the line about the cut (bytes)."""

_FENCE: Final = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)", re.DOTALL)
"""A line that opens or closes a block of code (CommonMark 0.31, 4.5)."""

WITHHELD: Final = (
    "[withheld: this ended while the daemon was away, so what would have to be taken out of it "
    "is not known any more; it is on the machine]"
)


@frozen(kw_only=True)
class Report:
    """What a source is told of a job's newest attempt, without secrets; what is empty is not told.

    `output` is the end of what it wrote to stdout and stderr, `step_summary` Markdown, `outputs` values by name.
    """

    output: str = ""
    step_summary: str = ""
    outputs: Mapping[str, str] = Factory(dict)
    annotations: tuple[Annotation, ...] = ()


def shortened(text: str) -> str:
    """Return a text of at most `LONGEST_TEXT` characters."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def step_summary(text: str, scrub: Callable[[str], str]) -> str:
    """Return the step summary in a text as it is reported; empty if there is nothing to see in it."""
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    return _clipped(scrub(text)) if text.strip() else ""


def annotations(
    found: Iterable[Annotation], scrub: Callable[[str], str]
) -> tuple[Annotation, ...]:
    """Return annotations as they are reported, in their order; those of no possible line are left out."""
    possible = [
        each for each in found if max(each.start_line, each.end_line or 0) <= _LAST_LINE
    ]
    return tuple(
        evolve(
            each,
            path=scrub(each.path),
            title=scrub(each.title),
            message=shortened(scrub(each.message)),
        )
        for each in possible[:MOST_ANNOTATIONS]
    )


def _clipped(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) <= LONGEST_STEP_SUMMARY:
        return text
    kept = data[: LONGEST_STEP_SUMMARY - _ROOM].decode(errors="ignore")
    fence, start = _open_fence(kept)
    if len(fence) > _LONGEST_FENCE:
        kept, fence = kept[:start], ""
    closing = f"\n{fence}" if fence else ""
    shown = len(kept.encode())
    return f"{kept}{closing}\n\n[... cut here: {shown:,} of {len(data):,} bytes are shown ...]"


def _open_fence(text: str) -> tuple[str, int]:
    """Return what would close the block of code that is open at the end of a text, and where that begins.

    Both are empty and 0 if none is. The indentation belongs to what closes it, so that it also does in a list.
    """
    opened, at, position = "", 0, 0
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line)
        if found is not None:
            indent, mark, rest = found.groups()
            if not opened:
                # The words after backticks have none: else it is code inside a line.
                if mark[0] == "~" or "`" not in rest:
                    opened, at = indent + mark, position
            elif not rest.strip() and mark.startswith(opened.lstrip()):
                opened, at = "", 0
        position += len(line) + 1
    return opened, at
