"""Characters of untrusted text that act on the text around them, written as escapes, for pages and terminals."""

import re
import unicodedata
from functools import cache
from typing import Final

_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Characters (Unicode categories) that would act on the text, or are invisible."""

_JOINERS: Final = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{SOFT HYPHEN}"
"""Characters among them that words are written with."""

COLOURS: Final = re.compile("\x1b\\[[0-9;:]*+[mK]")
"""Sequences that terminals take for colours; build logs are full of them."""


_LOG: Final = "\n\t\r"
"""Characters that may act in a log: progress bars go back to the beginning of their own line."""


def written_out(text: str, *, but: str = "") -> str:
    """Return a text with the characters that act written as Python's escapes.

    Args:
        text: The text.
        but: Characters that are left as they are.
    """
    if text.isascii():
        return text.translate(_of_ascii(but))
    return "".join(char if char in but else _visible(char) for char in text)


def coloured(text: str, *, but: str = "") -> str:
    """Return a program's output with its lines and colours; every other character that acts is written as an escape.

    Args:
        text: The output.
        but: Further characters that are left as they are.
    """
    safe: list[str] = []
    at = 0
    for colour in COLOURS.finditer(text):
        safe += (written_out(text[at : colour.start()], but=_LOG + but), colour[0])
        at = colour.end()
    return "".join((*safe, written_out(text[at:], but=_LOG + but)))


@cache
def _of_ascii(but: str) -> dict[int, str]:
    return {code: _visible(chr(code)) for code in range(0x80) if chr(code) not in but}


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _ACTING or character in _JOINERS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004  # as Python writes them
