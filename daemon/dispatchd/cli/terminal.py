"""Printing of texts that others wrote: no character in them acts on the terminal.

Jobs, runs and hubs can choose ids, names, reasons and outputs; an operator's terminal obeys escape sequences.
"""

import codecs
import re
from typing import Final

import click
from attrs import define, field

from dispatchd.cli.brand import brand, branded
from dispatchd.redaction.escapes import coloured, written_out

_LINES: Final = "\n\t"
_BEGUN: Final = re.compile("\x1b(?:\\[[0-9;:]{0,64})?\\Z")
"""Beginning of a colour at the end of a chunk."""

_BYTES: Final = "".join(map(chr, range(0xDC80, 0xDD00)))
"""Bytes that are no UTF-8, as Python's `surrogateescape` represents them; a terminal shows them as errors."""


def echo(text: object, *, err: bool = False) -> None:
    """Print lines, with characters that act on a terminal written as escapes."""
    click.echo(written_out(branded(str(text)), but=_LINES), err=err)


def complain(text: object) -> None:
    """Print a line to stderr, behind the program's name."""
    echo(f"{brand().name}: {text}", err=True)


@define
class LogFilter:
    """Passes on a program's output in chunks, as `coloured` does for the whole."""

    _decoder: codecs.IncrementalDecoder = field(
        factory=lambda: codecs.getincrementaldecoder("utf-8")("surrogateescape")
    )
    _begun: str = ""

    def feed(self, chunk: bytes, *, last: bool = False) -> bytes:
        """Return the printable part of the next chunk, and of the text held back from those before.

        Args:
            chunk: The chunk; cut anywhere.
            last: True if no chunk comes after it.
        """
        text = self._begun + self._decoder.decode(chunk, last)
        begun = None if last else _BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        text = text[: len(text) - len(self._begun)]
        return coloured(text, but=_BYTES).encode("utf-8", "surrogateescape")
