"""Invisible parts of a text: commands for a terminal, control characters, characters of width zero.

A secret with a colour in the middle is a secret once a page or a terminal has removed the colour.
"""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import chain
from typing import Final

from attrs import frozen

_SEQUENCE: Final = r"""
    (?:
        (?: (?<=\x1b)\[ | (?<=\x9b) ) [0-?]*+ [ -/]*+ [@-~]?                   # control sequences: colours, moves
      | (?: (?<=\x1b)[\]PX^_] | (?<=[\x90\x98\x9d-\x9f]) ) [^\x07\x1b\x9c\n]*+ (?:\x07|\x1b\\|\x9c)?
      | (?<=\x1b) [ -/]*+ [0-~]
    )?
"""
"""Rest of a terminal's control sequence (ECMA-48, 5th edition, 5.3 to 5.6), complete or not.

The string of one, such as a title, is searched up to the end of its line. The first character stands before the
pattern, so that a search goes for that.
"""

_COLOUR: Final = r"(?: (?<=\x1b)\[ [\d;:]*+ [mK] )?"
"""Rest of a colour (ECMA-48, SGR), or of the sequence that erases a line's end, which grep writes beside each."""

_C0: Final = r"\x00-\x08\x0b-\x1f\x7f"
"""Control characters (ECMA-48, C0 and DEL) but tab and line feed, which are visible."""

_ANY_C0: Final = re.compile(f"[{_C0}]")

_FILLERS: Final = "\u115f\u1160\u3164\uffa0"
"""Letters that are defined as empty (Unicode, Hangul fillers)."""

_NOT_SEEN: Final = frozenset({"Cc", "Cf", "Mn", "Me"})
"""Unicode's categories of characters without width: controls, formats and marks."""


@frozen
class Hidden:
    """Patterns of the invisible parts of a text, by the sequences that a reader knows."""

    sequences: re.Pattern[str]
    """For readers that know all sequences."""
    colours: re.Pattern[str]
    """For readers that know colours alone. Only the first character of other sequences is hidden, so that
    none reaches into a word after it."""
    characters: re.Pattern[str]
    """For readers that know no sequence: single characters."""


def hidden(text: str) -> Hidden | None:
    """Return the patterns of a text's invisible parts; None if all of it is visible."""
    if text.isascii():
        return _patterns(_C0) if _ANY_C0.search(text) else None
    # A class of the characters in the text is searched ten times as fast as one of all possible characters.
    there = _invisible().intersection(set(text))
    return _patterns("".join(sorted(there))) if there else None


def shown(text: str) -> str:
    """Return the visible part of a text."""
    patterns = hidden(text)
    return patterns.sequences.sub("", text) if patterns else text


def without_sequences(text: str) -> str:
    """Return a text without control characters and sequences. Characters without width stay."""
    return _patterns(f"{_C0}\x80-\x9f").sequences.sub("", text)


@lru_cache(maxsize=64)
def _patterns(characters: str) -> Hidden:
    one = f"[{characters}]"
    return Hidden(
        sequences=re.compile(one + _SEQUENCE, re.VERBOSE),
        colours=re.compile(one + _COLOUR, re.VERBOSE),
        characters=re.compile(one),
    )


@cache
def _invisible() -> frozenset[str]:
    """Return all invisible characters; planes 0, 1 and 14 of Unicode have all of them."""
    codes = chain(range(0x20000), range(0xE0000, 0xE1000))
    return frozenset(
        chr(code)
        for code in codes
        if unicodedata.category(chr(code)) in _NOT_SEEN or chr(code) in _FILLERS
    ) - frozenset("\t\n")
