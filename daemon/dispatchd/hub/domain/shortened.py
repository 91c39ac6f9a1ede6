"""Shortener of a JSON text: long strings are cut while it arrives, so a long report takes little memory and isn't refused."""

import re
from typing import Final

from attrs import define

_BETWEEN: Final = re.compile(rb'[^"]*')
"""Text between two strings."""

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

_LONGEST_ESCAPE: Final = 12
"""Longest escape: that of a surrogate pair (bytes). A longer rest is no incomplete escape."""


@define
class Shortener:
    """Cuts the strings of one JSON text; feed it the text in any pieces.

    Invalid JSON stays invalid.
    """

    longest: int
    """Longest part of a string that stays (bytes, in its written form)."""
    _in_string: bool = False
    _room: int = 0
    """Bytes that the current string may still have (count)."""
    _rest: bytes = b""
    """Bytes that can't be processed before more have come."""
    _is_broken: bool = False
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
        left += text[position : end + 1]
        self._in_string, self._room = end < len(text), self.longest
        return min(end + 1, len(text))

    def _string(self, text: bytes, position: int, left: bytearray) -> int:
        end = _whole(text, position, len(text))
        if end - position <= self._room:
            left += text[position:end]
            self._room -= end - position
        else:
            left += text[position : _whole(text, position, position + self._room)]
            self._room = 0
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
