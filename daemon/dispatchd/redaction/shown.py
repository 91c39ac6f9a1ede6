"""Invisible parts of a text: commands for a terminal, control characters, characters of width zero.

A secret with a colour in the middle is a secret for whoever reads it, once a page or a terminal has taken the
colour out.
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
"""The rest of what a terminal takes for a command (ECMA-48, 5th edition, 5.3 to 5.6), complete or not.

A string of one, such as a title, is looked for up to the end of its line. The first character stands before it, so
that a search goes for that.
"""

_COLOUR: Final = r"(?: (?<=\x1b)\[ [\d;:]*+ [mK] )?"
"""The rest of a colour (ECMA-48, SGR), or of what erases a line's end, which grep writes beside each."""

_C0: Final = r"\x00-\x08\x0b-\x1f\x7f"
"""Control characters (ECMA-48, C0 and DEL) but tab and line feed, which are seen."""

_ANY_C0: Final = re.compile(f"[{_C0}]")

_FILLERS: Final = "\u115f\u1160\u3164\uffa0"
"""Letters that are defined as empty (Unicode, Hangul fillers)."""

_NOT_SEEN: Final = frozenset({"Cc", "Cf", "Mn", "Me"})
"""Unicode's categories of characters that take no room: controls, formats and marks."""


@frozen
class Hidden:
    """What is not seen of a text, by how much of the sequences a reader knows."""

    sequences: re.Pattern[str]
    """All of them."""
    colours: re.Pattern[str]
    """Colours alone; of others the first character, so that none reaches into a word after it."""
    characters: re.Pattern[str]
    """None: single characters."""


def hidden(text: str) -> Hidden | None:
    """Return what is not seen of a text; None if all of it is."""
    if text.isascii():
        return _patterns(_C0) if _ANY_C0.search(text) else None
    # A class of those that are there is searched for ten times as fast as one of all that could be.
    there = _invisible().intersection(set(text))
    return _patterns("".join(sorted(there))) if there else None


def shown(text: str) -> str:
    """Return what is seen of a text."""
    patterns = hidden(text)
    return patterns.sequences.sub("", text) if patterns else text


def without_sequences(text: str) -> str:
    """Return a text without control characters and sequences; characters of width zero belong to it."""
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
    """Return all characters that are not seen; planes 0, 1 and 14 of Unicode have them all."""
    codes = chain(range(0x20000), range(0xE0000, 0xE1000))
    return frozenset(
        chr(code)
        for code in codes
        if unicodedata.category(chr(code)) in _NOT_SEEN or chr(code) in _FILLERS
    ) - frozenset("\t\n")
