"""Step summaries as HTML: Markdown of untrusted programs, of which no tag, image or script survives."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.token import Token
from typing_extensions import override

from dispatchd.hub.web.text import shown_lines

_LINK: Final = re.compile(r"https?://|mailto:", re.IGNORECASE)
"""Beginning of an address that may be a link; others stay text, as those of this hub's own pages."""

_DEEPEST: Final = 6
_ABOVE: Final = 3
"""Level of the heading under which a summary stands."""

_MOST: Final = 32 * 1024
"""Longest summary that is read as Markdown (characters): a longer one is shown as text, because reading it takes too long."""

_MOST_CELLS: Final = 10_000
"""Most cells of all tables of a summary (count): a short row has as many as the longest, so that a few characters would
make a megabyte."""

_CELLS_LEFT: Final = "cells left"
"""Count of cells that further tables may have, in the environment of a parse."""


class _Parser(MarkdownIt):
    """Parser that takes few addresses for links."""

    @override
    def validateLink(self, url: str) -> bool:
        return _LINK.match(url) is not None


def _parser() -> MarkdownIt:
    parser = _Parser("commonmark", {"html": False})
    parser.enable(["table", "strikethrough"])
    # Nothing is loaded from elsewhere: an image is its text and its address.
    parser.disable("image")
    parser.block.ruler.at("table", _bounded_table, {"alt": ["paragraph", "reference"]})
    return parser


def _bounded_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001  # a rule of the parser
    """Take a table, unless it or one before it has too many cells: then it is a text."""
    left: int = state.env.setdefault(_CELLS_LEFT, _MOST_CELLS)
    if left < 0 or not table(state, start, end, True):
        return False
    if silent:
        return True
    columns = state.src.count("|", state.bMarks[start], state.eMarks[start]) + 1
    for line in range(start, end):
        if state.isEmpty(line) or left < 0:
            break
        left -= columns
    state.env[_CELLS_LEFT] = left
    return left >= 0 and table(state, start, end, False)


_PARSER: Final = _parser()


def markdown(text: str) -> str:
    """Return Markdown as HTML; empty where it is too long for that."""
    if len(text) > _MOST:
        return ""
    tokens = [*_fitting(_PARSER.parse(shown_lines(text)))]
    html: str = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return html


def _fitting(tokens: Iterable[Token]) -> Iterator[Token]:
    """Yield tokens whose headings are below that of the section, without a gap, and whose links don't tell where they were clicked."""
    level = _ABOVE
    for token in tokens:
        if token.type == "heading_open":
            level = min(_ABOVE + int(token.tag[1:]), level + 1, _DEEPEST)
        # The policy of the page allows no style.
        token.attrs.pop("style", None)
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noreferrer noopener nofollow")
        is_heading = token.type in {"heading_open", "heading_close"}
        yield token.copy(tag=f"h{level}") if is_heading else token
