"""Step summaries as HTML: Markdown of untrusted programs, of which no tag, image or script survives."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from markdown_it import MarkdownIt
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
    return parser


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
