"""Invisible parts of a text: commands for a terminal, control characters, characters of width zero.

A secret with a colour in the middle is a secret once a page or a terminal has removed the colour.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import chain
from typing import Final

from attrs import frozen

_ESCAPE: Final = "\x1b"

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

_C0_CHARACTERS: Final = "".join(
    map(chr, (*range(9), *range(11, 32), 127))  # those of `_C0`
)
_ANY_C0: Final = re.compile(f"[{_C0}]")

_SHORT: Final = 512
"""Longest text that is searched for a class sooner than for each character of it (characters)."""

_OTHER_BEGINNINGS: Final = frozenset("\x90\x98\x9b\x9d\x9e\x9f")
"""Characters other than escape with which a sequence begins (ECMA-48, C1)."""

_MOST_REPLACED: Final = 16
"""Most different characters that are removed one after the other (count); with more of them one class is faster."""

_ASCII: Final = bytes(range(0x80))

# Searches that begin with one certain character are many times as fast as those that begin with a class.
_ESCAPED_SEQUENCE: Final = re.compile(f"({_ESCAPE}{_SEQUENCE})", re.VERBOSE)
_ESCAPED_COLOUR: Final = re.compile(f"({_ESCAPE}{_COLOUR})", re.VERBOSE)

_FILLERS: Final = "\u115f\u1160\u3164\uffa0"
"""Letters that are defined as empty (Unicode, Hangul fillers)."""

_NOT_SEEN: Final = frozenset({"Cc", "Cf", "Mn", "Me"})
"""Unicode's categories of characters without width: controls, formats and marks."""


@frozen
class Patterns:
    """Patterns of the invisible parts of a text, by the sequences that a reader knows; each is one group."""

    sequences: re.Pattern[str]
    """For readers that know all sequences."""
    colours: re.Pattern[str]
    """For readers that know colours alone. Only the first character of other sequences is hidden, so that
    none reaches into a word after it."""
    characters: re.Pattern[str]
    """For readers that know no sequence: single characters."""


@frozen
class Hidden:
    """Invisible characters in a text."""

    characters: str
    """Each of them once."""

    @property
    def is_simple(self) -> bool:
        """Return whether escape alone begins sequences, so that they are removed before the other characters."""
        return len(self.characters) <= _MOST_REPLACED and _OTHER_BEGINNINGS.isdisjoint(
            self.characters
        )

    @property
    def alone(self) -> str:
        """Those that begin no sequence, where the text is a simple one."""
        return self.characters.replace(_ESCAPE, "")

    @property
    def patterns(self) -> Patterns:
        """Patterns for a search of the whole text."""
        return _patterns(self.characters)

    def cut(self, text: str) -> list[str]:
        """Return the parts of a simple text: what is between the sequences, and each sequence, by turns."""
        return _cut(_ESCAPED_SEQUENCE, text, self.characters)

    def cut_colours(self, text: str) -> list[str]:
        """Return the parts of a simple text for readers that know colours alone."""
        return _cut(_ESCAPED_COLOUR, text, self.characters)


def hidden(text: str) -> Hidden | None:
    """Return the invisible characters of a text; None if all of it is visible."""
    there = ""
    if len(text) > _SHORT or _ANY_C0.search(text):
        there = "".join([char for char in _C0_CHARACTERS if char in text])
    if not text.isascii():
        # Most of a text is ASCII; to take that out first is many times as fast as to look at each character.
        rest = text.encode("utf-8", "surrogatepass").translate(None, _ASCII)
        others = set(rest.decode("utf-8", "surrogatepass"))
        there += "".join(sorted(_invisible().intersection(others)))
    return Hidden(there) if there else None


def are_colours(sequences: Iterable[str]) -> bool:
    """Return whether sequences that begin with an escape are those that every reader of colours knows."""
    return all(map(_ESCAPED_COLOUR.fullmatch, sequences))


def shown(text: str) -> str:
    """Return the visible part of a text."""
    there = hidden(text)
    if there is None:
        return text
    if there.is_simple:
        text = "".join(there.cut(text)[::2])
        for char in there.alone:
            text = text.replace(char, "")
        return text
    return there.patterns.sequences.sub("", text)


def without_sequences(text: str) -> str:
    """Return a text without control characters and sequences. Characters without width stay."""
    return _compiled(f"{_C0}\x80-\x9f").sequences.sub("", text)


def _cut(pattern: re.Pattern[str], text: str, there: str) -> list[str]:
    return pattern.split(text) if _ESCAPE in there else [text]


def _patterns(characters: str) -> Patterns:
    # None of them has a meaning in a class. One pattern for all of ASCII: to compile one takes a millisecond.
    beyond = "".join(char for char in characters if not char.isascii())
    return _compiled(_C0 + beyond)


@lru_cache(maxsize=64)
def _compiled(characters: str) -> Patterns:
    one = f"[{characters}]"
    return Patterns(
        sequences=re.compile(f"({one}{_SEQUENCE})", re.VERBOSE),
        colours=re.compile(f"({one}{_COLOUR})", re.VERBOSE),
        characters=re.compile(f"({one})"),
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
