"""Commands in a comment: `/run NAME SHA`, `/cancel` and `/resolve DECISION NOTE`, each on a line of its own.

A line is a command if it begins with one (after at most three spaces, as in Markdown, or a mention of a user)
and contains nothing else, but for the note of a decision. Only plain text of a paragraph counts, so that no command is in a quotation, a list, code,
a link, an HTML element or anything that readers don't see. In doubt a line is no command: it can be written again,
but not taken back.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import takewhile
from typing import Final

from attrs import frozen
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dispatchd.hub.github.routing.open_elements import OpenElements
from dispatchd.protocol.outcome import CHOICES, ENDINGS, LONGEST_NOTE

MOST_COMMANDS: Final = 10
"""Most commands of a comment that are executed (count)."""


class Verb(StrEnum):
    """Verb of a command."""

    RUN = "run"
    CANCEL = "cancel"
    RESOLVE = "resolve"


@frozen(kw_only=True)
class Command:
    """One command. Without a name it means the jobs that a new commit of the pull request would start."""

    verb: Verb
    name: str = ""
    sha: str = ""
    """Full id of the commit that it is meant for, in lower case; empty where it names none."""
    choice: str = ""
    """Decision about a parked job, one of `CHOICES`; empty for other commands."""
    note: str = ""
    """Reason of the decision."""


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

_RESOLVE: Final = re.compile(
    r"""
    \ {0,3}
    (?:@[a-z0-9][a-z0-9-]*(?:\[bot\])?[,:]?[ \t]+)?
    /resolve[ \t]+(?P<choice>retry|(?:fail|succeed)(?:ed)?)
    (?P<note>[ \t].*)?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_CHOICES: Final = {
    **{choice: choice for choice in CHOICES},
    **{outcome.value: choice for choice, outcome in ENDINGS.items()},
}
"""Words for the decisions about a parked job: their own, and those of the outcomes."""

_CANDIDATE: Final = re.compile(
    r"^.{0,60}/(?:run|cancel|resolve)\b", re.IGNORECASE | re.MULTILINE
)

_MARKUP: Final = re.compile(r"[\[\]<&*_|`~!]")
_MOST_MARKUP: Final = 5_000
"""Most characters of markup in a comment with commands (count): the parser's time grows with their square."""

_BREAK: Final = re.compile(r"\r\n|\n|\r")
_FOOTNOTE: Final = re.compile(r" {0,3}\[\^[^\]\s]+\]:")
"""The beginning of a footnote, which is displayed only if something refers to it (GitHub's extension)."""

_COMMENT: Final = "<!--"
_BREAKS: Final = ("softbreak", "hardbreak")

_MARKDOWN: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# An escaped or encoded character stays a token of its own, so its line isn't plain text.
_MARKDOWN.disable("text_join")


def commands(body: str) -> list[Command]:
    """Return the commands of a comment in their order, each once, at most `MOST_COMMANDS`."""
    if _CANDIDATE.search(body) is None:
        return []
    if sum(1 for _ in _MARKUP.finditer(body)) > _MOST_MARKUP:
        return []
    parsed: dict[Command, None] = {}
    for line in _plain_lines(body):
        if decision := _RESOLVE.fullmatch(line):
            parsed[_decision(decision)] = None
            continue
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
            parsed[command] = None
    return list(parsed)[:MOST_COMMANDS]


def _decision(match: re.Match[str]) -> Command:
    return Command(
        verb=Verb.RESOLVE,
        choice=_CHOICES[match["choice"].lower()],
        note=" ".join((match["note"] or "").split())[:LONGEST_NOTE],
    )


def _plain_lines(body: str) -> Iterator[str]:
    """Yield the lines of a document's own paragraphs that are nothing but text, outside of HTML elements."""
    written = _BREAK.split(body)
    elements, before = OpenElements(), Token("", "", 0)
    for block in _MARKDOWN.parse(body):
        if block.type == "html_block":
            elements.read(block.content, block.level)
        elif block.type == "inline":
            is_own = before.type == "paragraph_open" and before.level == 0
            first = (block.map or [0])[0]
            if is_own and not elements and not _continues_footnote(written, first):
                yield from _lines_before_html(block.children or [])
            for child in block.children or []:
                if child.type == "html_inline":
                    elements.read(child.content, before.level + child.level)
        before = block


def _continues_footnote(lines: list[str], first: int) -> bool:
    """Return whether a paragraph continues with a footnote that the parser takes for a link's reference."""
    above = takewhile(str.strip, reversed(lines[:first]))
    return any(map(_FOOTNOTE.match, above))


def _lines_before_html(tokens: list[Token]) -> Iterator[str]:
    """Yield the plain lines of a paragraph, up to something that may hide the rest of it."""
    line, is_plain = "", True
    for token in tokens:
        if token.type in _BREAKS:
            if is_plain:
                yield line
            line, is_plain = "", True
        elif _hides(token, line):
            return
        elif token.type == "text" and token.level == 0:
            line += token.content
        elif token.type != "html_inline":
            is_plain = False
    if is_plain:
        yield line


def _hides(token: Token, line: str) -> bool:
    """Return whether a token begins an HTML element, an unfinished HTML comment or a footnote; `line` is before it."""
    if token.type == "html_inline":
        return not token.content.startswith(_COMMENT)
    text = line + token.content
    return token.type == "text" and bool(_COMMENT in text or _FOOTNOTE.match(text))
