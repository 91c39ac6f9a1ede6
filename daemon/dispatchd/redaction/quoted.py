"""Quotes: short parts of texts by others, in one line and cut between words.

Such a part is redacted later, where it is logged or leaves. Half a secret would not be found then.
"""

from typing import Final

_READ: Final = 64 * 1024
"""Longest part of a text that is looked at (characters)."""


def quoted(text: str, most: int) -> str:
    """Return the beginning of a text in one line of at most `most` characters, without a word that doesn't fit in whole."""
    words = text[:_READ].split()
    if len(text) > _READ and not text[_READ - 1 : _READ + 1].isspace():
        words = words[:-1]
    line = " ".join(words)
    if len(line) <= most:
        return line
    return line[: line.rfind(" ", 0, most) + 1].rstrip() + "…"
