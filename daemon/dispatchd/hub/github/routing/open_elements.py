"""HTML elements that are open at a place of a Markdown document. In doubt an element is open."""

import re
from html.parser import HTMLParser
from typing import Final

from typing_extensions import override

_VOID: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input"}
    | {"link", "meta", "param", "source", "track", "wbr"}
)
"""Elements without content (HTML Standard, 13.1.2)."""

_UNCLEAR: Final = ""
"""Name for markup that is unfinished, or that browsers end elsewhere: no end tag closes it."""

_ENDS_EARLIER: Final = re.compile(r"-?>|.*--!>", re.DOTALL)
"""Content of a comment that browsers end earlier (HTML Standard, 13.2.5.43 to 51)."""


class OpenElements(HTMLParser):
    """Stack of open elements. An end tag closes only the element that was opened last."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []
        self._depth = 0
        super().__init__()

    def __bool__(self) -> bool:
        """Return whether an element is open."""
        return bool(self._open)

    def read(self, html: str, depth: int) -> None:
        """Read the HTML of a token.

        Args:
            html: The HTML.
            depth: Number of Markdown elements around it: in a deeper one, as in a cell of a table, no end tag closes.
        """
        self._depth = depth
        self.feed(html)
        if self.rawdata:
            self._add(_UNCLEAR)
        self.reset()

    @override
    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open an element."""
        if tag not in _VOID:
            self._add(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Open an element: in HTML a slash doesn't close it."""
        self.handle_starttag(tag, attrs)

    @override
    def handle_endtag(self, tag: str) -> None:
        """Close the last element, if it has this name."""
        name, depth = self._open[-1] if self._open else (_UNCLEAR, 0)
        if tag == name and self._depth <= depth:
            self._open.pop()

    @override
    def handle_comment(self, data: str) -> None:
        """Doubt a comment that browsers end earlier."""
        if _ENDS_EARLIER.match(data):
            self._add(_UNCLEAR)

    @override
    def unknown_decl(self, data: str) -> None:
        """Doubt a section such as CDATA, which browsers end at the first `>`."""
        self._add(_UNCLEAR)

    def _add(self, name: str) -> None:
        self._open.append((name, self._depth))
