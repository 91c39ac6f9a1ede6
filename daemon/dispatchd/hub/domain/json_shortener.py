"""Shortener of a JSON text: long strings are cut while it arrives, so a long report takes little memory and isn't refused."""

import re
from typing import Final

from attrs import define, field

_BETWEEN: Final = re.compile(rb'[^"]*')
"""Text between two strings."""

_MARK: Final = re.compile(rb"[\[\]{},]")
_OPENING: Final = (b"[", b"{")

_HEX: Final = rb"[0-9a-fA-F]"
_HIGH: Final = rb"\\u[dD][89abAB]" + _HEX * 2
_LOW: Final = rb"\\u[dD][c-fC-F]" + _HEX * 2
_CONTENT: Final = re.compile(
    rb'(?:[^"\\]+|'
    + _HIGH
    + _LOW
    + rb"|("
    + _HIGH
    + rb")|\\u"
    + _HEX * 4
    + rb"|\\[^u])*",
    re.DOTALL,
)
"""Content of a string, up to its end or to an incomplete escape; a high surrogate by itself is a group."""

_HALF_CHARACTER: Final = re.compile(rb"[\xc0-\xff][\x80-\xbf]{0,2}\Z")
"""Incomplete character in UTF-8 at the end of a text."""

_IN_MEMBER: Final = 2
"""Depth of the strings that are right in the list or object of a member."""

_LONGEST_ESCAPE: Final = 12
"""Longest escape: that of a surrogate pair (bytes). A longer rest is no incomplete escape."""


@define
class Shortener:
    """Cuts the strings of one JSON text, an object; feed it the text in any pieces.

    Invalid JSON stays invalid.
    """

    longest: int
    """Longest part that stays of a member's own string, and of all strings right in its list or object together
    (bytes, in its written form)."""
    longest_inside: int
    """Longest part that stays of a string deeper inside (bytes)."""
    most_items: int
    """Most items of a member's list or object whose strings stay; those of the others become empty (count)."""
    texts: int = field(default=0, init=False)
    """Length of all strings that have stayed (bytes)."""
    _in_string: bool = field(default=False, init=False)
    _depth: int = field(default=0, init=False)
    _items: int = field(default=0, init=False)
    """Items of the current member before the current one (count)."""
    _shared: int = field(default=0, init=False)
    """Bytes that the strings right in the current member's list or object may still have (count)."""
    _room: int = field(default=0, init=False)
    """Bytes that the current string may still have (count)."""
    _rest: bytes = field(default=b"", init=False)
    """Bytes that can't be processed before more have come."""
    _is_broken: bool = field(default=False, init=False)
    """True after an escape that isn't one of JSON's."""

    def feed(self, piece: bytes) -> bytes:
        """Return the shortened form of another piece; a few bytes of it may come with the next one."""
        text, self._rest = self._rest + piece, b""
        left, position = bytearray(), 0
        while position < len(text) and not self._is_broken:
            step = self._string if self._in_string else self._between
            position = step(text, position, left)
        return bytes(left + text[position:])

    def close(self) -> bytes:
        """Return the last bytes, which could not be processed."""
        rest, self._rest = self._rest, b""
        return rest

    def _between(self, text: bytes, position: int, left: bytearray) -> int:
        match = _BETWEEN.match(text, position)
        end = position if match is None else match.end()
        for mark in _MARK.findall(text, position, end):
            self._pass(mark)
        left += text[position : end + 1]
        self._in_string, self._room = end < len(text), self._room_here()
        return min(end + 1, len(text))

    def _pass(self, mark: bytes) -> None:
        """Note the end of an item, or of a list or object."""
        if mark in _OPENING:
            self._depth += 1
        elif mark != b",":
            self._depth -= 1
        elif self._depth == _IN_MEMBER:
            self._items += 1
        if self._depth < _IN_MEMBER:
            self._items, self._shared = 0, self.longest

    def _room_here(self) -> int:
        """Return the most that the string here may have (bytes)."""
        if self._depth < _IN_MEMBER:
            return self.longest
        if self._items >= self.most_items:
            return 0
        return self._shared if self._depth == _IN_MEMBER else self.longest_inside

    def _keep(self, string: bytes, left: bytearray) -> None:
        left += string
        self.texts += len(string)
        self._room -= len(string)
        if self._depth == _IN_MEMBER:
            self._shared -= len(string)

    def _string(self, text: bytes, position: int, left: bytearray) -> int:
        end = _whole(text, position, len(text))
        if end - position <= self._room:
            self._keep(text[position:end], left)
        else:
            kept_end = _whole(text, position, position + self._room)
            self._keep(text[position:kept_end], left)
            self._room = 0
            if self._depth == _IN_MEMBER:
                self._shared = 0
        if text[end : end + 1] == b'"':
            left += b'"'
            self._in_string = False
            return end + 1
        if len(text) - end > _LONGEST_ESCAPE:
            self._is_broken = True
            return end
        self._rest = text[end:]
        return len(text)


def _whole(text: bytes, start: int, end: int) -> int:
    """Return the end of the last whole character of a string, from its start to an end that may cut one."""
    match = _CONTENT.match(text, start, end)
    if match is None:
        return start
    content_end = match.end()
    if text[content_end : content_end + 1] == b'"':
        return content_end
    if match.end(1) == content_end:
        return match.start(1)
    if content_end < end:
        return content_end
    half = _HALF_CHARACTER.search(text, max(start, content_end - 3), content_end)
    return content_end if half is None else half.start()
