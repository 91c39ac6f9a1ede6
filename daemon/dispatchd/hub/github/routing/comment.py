"""Commands in a comment: `/run NAME SHA` and `/cancel`, each on a line of its own.

A line is a command if it begins with one (after at most three spaces, as in Markdown, or a mention of a user)
and contains nothing else. A sentence that mentions `/run deploy` is no command. Nor is a line in a quotation,
in code, or in an HTML comment, which is invisible.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from attrs import define, frozen

MOST_COMMANDS: Final = 10
"""Most commands of a comment that are executed (count)."""


class Verb(StrEnum):
    """Verb of a command."""

    RUN = "run"
    CANCEL = "cancel"


@frozen(kw_only=True)
class Command:
    """One command. Without a name it means the jobs that a new commit of the pull request would start."""

    verb: Verb
    name: str = ""
    sha: str = ""
    """Full id of the commit that it is meant for, in lower case; empty where it names none."""


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

_FENCE: Final = re.compile(
    r"(?P<indent>[ \t]*(?:(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)*)(?P<mark>`{3,}|~{3,})(?P<rest>.*)"
)
"""The start or end of a block of code (CommonMark, 4.5), also one in a list."""

_LEAST_INDENTED: Final = 4
"""Indentation from which a fence ends no block, except one in a list (columns; CommonMark, 4.5)."""

_RAW: Final = re.compile(r"<(pre|code|script|style|textarea)\b", re.IGNORECASE)
"""HTML elements that show or hide their lines unchanged (CommonMark, 4.6)."""

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
    reader = _Reader()
    for line in _BREAK.split(body):
        if not reader.is_inside(line) and reader.is_spoken(line):
            yield line


@define
class _Reader:
    """Reads a comment line by line.

    In doubt a line counts as code: a command can be written again, but can't be taken back.
    """

    _fence: re.Match[str] | None = None
    _raw: str = ""
    _quoted: bool = False
    _in_span: bool = False

    def is_inside(self, line: str) -> bool:
        """Return whether a line is in a block of code or of raw HTML, or begins or ends one."""
        fence, tag = _FENCE.fullmatch(line), _RAW.search(line)
        if self._raw:
            self._raw = "" if f"</{self._raw}" in line.lower() else self._raw
        elif self._fence is not None:
            ends = fence is not None and _ends(fence, self._fence)
            self._fence = None if ends else self._fence
        elif fence is not None and not _is_span(fence):
            self._fence, self._quoted, self._in_span = fence, False, False
        elif tag is not None and f"</{tag[1].lower()}" not in line.lower():
            self._raw = tag[1].lower()
        else:
            return False
        return True

    def is_spoken(self, line: str) -> bool:
        """Return whether a line that is in no block is the author's own text: neither quoted nor code."""
        if not line.strip():
            self._quoted = self._in_span = False
            return False
        # A line that follows a quoted one without a blank line belongs to the quotation (CommonMark, 5.1, laziness).
        self._quoted = self._quoted or line.lstrip(" ").startswith(">")
        spoken = not self._quoted and not self._in_span and "`" not in line
        self._in_span ^= bool(line.count("`") % 2)
        return spoken


def _is_span(fence: re.Match[str]) -> bool:
    """Return whether a fence is code inside a line: backticks after backticks."""
    return fence["mark"][0] == "`" and "`" in fence["rest"]


def _ends(fence: re.Match[str], opened: re.Match[str]) -> bool:
    indent = len(fence["indent"])
    near = indent < max(_LEAST_INDENTED, len(opened["indent"]) + _LEAST_INDENTED)
    plain = not fence["indent"].strip() and not fence["rest"].strip()
    return near and plain and fence["mark"].startswith(opened["mark"])


def _same_lines(hidden: re.Match[str]) -> str:
    return "\n" * hidden[0].count("\n")
