"""Commands in a comment: `/run NAME SHA` and `/cancel`, each on a line of its own.

A line counts if it begins with the command (after at most three spaces, as Markdown has it, or a mention of
somebody) and holds nothing that isn't part of it. So a sentence that mentions `/run deploy` is none, and
neither is anything in a quotation, in code, or in a comment of HTML, which nobody sees.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from attrs import frozen

MOST_COMMANDS: Final = 10
"""How many commands of a comment are carried out (count)."""


class Verb(StrEnum):
    """What a command wants."""

    RUN = "run"
    CANCEL = "cancel"


@frozen(kw_only=True)
class Command:
    """One command; without a name it means whatever a new commit of the pull request would start."""

    verb: Verb
    name: str = ""
    sha: str = ""
    """Full commit id that it is meant for, in lower case; empty where it names none."""


_LINE: Final = re.compile(
    r"""
    \ {0,3}
    (?:@[a-z0-9][a-z0-9-]*(?:\[bot\])?[,:]?[ \t]+)?
    /(?P<verb>run|cancel)
    (?:[ \t]+(?P<name>[a-z][a-z0-9_-]{0,39}))??
    (?:[ \t]+(?P<sha>[0-9a-f]{40}|[0-9a-f]{64}))?
    [ \t]*
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_FENCE: Final = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<rest>.*)")
"""The start or end of a block of code (CommonMark, 4.5)."""

_BREAK: Final = re.compile(r"\r\n|\n|\r")
_HIDDEN: Final = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def commands(body: str) -> list[Command]:
    """Return the commands of a comment in their order, each once, at most `MOST_COMMANDS`."""
    found: dict[Command, None] = {}
    for line in _spoken(_HIDDEN.sub(_same_lines, body)):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        verb = Verb(match["verb"].lower())
        command = Command(
            verb=verb,
            name=(match["name"] or "").lower(),
            sha=(match["sha"] or "").lower(),
        )
        if verb is Verb.RUN or command == Command(verb=verb):
            found[command] = None
    return list(found)[:MOST_COMMANDS]


def _spoken(body: str) -> Iterator[str]:
    """Yield the lines of a comment that are neither quoted nor code."""
    fence = ""
    quoted = False
    for line in _BREAK.split(body):
        match = _FENCE.fullmatch(line)
        if fence:
            ends = match is not None and match["mark"].startswith(fence)
            if ends and match is not None and not match["rest"].strip():
                fence = ""
        elif match is not None and not (
            match["mark"][0] == "`" and "`" in match["rest"]
        ):
            fence, quoted = match["mark"], False
        elif line.lstrip(" ").startswith(">"):
            quoted = True
        elif not line.strip():
            quoted = False
        elif not quoted:
            # What follows a quoted line without a blank one belongs to it (CommonMark, 5.1, laziness).
            yield line


def _same_lines(hidden: re.Match[str]) -> str:
    return "\n" * hidden[0].count("\n")
