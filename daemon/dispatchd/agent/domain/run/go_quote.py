"""Quote a string as Go's strconv.Quote does, for engines that read Dagu's parameter string."""

from typing import Final
from unicodedata import category

_ESCAPES: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}

_BMP_END: Final = 0x10000
_SHORT_END: Final = 0x20
_DELETE: Final = 0x7F


def go_quote(text: str) -> str:
    """Return a text in double quotes, as in Go source.

    Go strings can't hold a lone surrogate: it becomes the replacement character, as in Go's own JSON
    decoder. The printable characters depend on the Unicode version of either side.
    """
    return '"' + "".join(_quoted(letter) for letter in text) + '"'


def _quoted(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    kind = category(letter)
    if kind == "Cs":
        return "\ufffd"
    # unicode.IsPrint: letters, marks, numbers, punctuation, symbols, and the ASCII space.
    if kind[0] in "LMNPS" or letter == " ":
        return letter
    code = ord(letter)
    if code < _SHORT_END or code == _DELETE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _BMP_END else f"\\U{code:08x}"
