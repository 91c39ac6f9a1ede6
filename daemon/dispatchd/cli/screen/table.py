"""Tables and pairs: as wide as their content in a pipe; cut or wrapped to the width on a terminal."""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.cli.brand import branded
from dispatchd.cli.screen.colour import is_terminal, painted, show
from dispatchd.cli.screen.names import short_ids
from dispatchd.redaction.escapes import written_out

_GAP: Final = "  "

_LEAST: Final = 6
"""Width below which no column is cut (characters)."""

_LEAST_WRAPPED: Final = 20
"""Width below which values are not wrapped (characters)."""


_NO_WIDTH: Final = frozenset({"Mn", "Me", "Cf"})
"""Characters (Unicode categories) that are drawn on the one before them, or not at all."""


class Kind(Enum):
    """Presentation of the cells of a column on a terminal."""

    TEXT = auto()
    """Cut where the table is too wide."""
    WHOLE = auto()
    """Never cut."""
    STATE = auto()
    """In the colour of the state that it begins with; cut like a text."""
    ID = auto()
    """An id, shortened to what tells it from the others."""
    IDS = auto()
    """Several ids with spaces between them."""


@frozen
class Column:
    """A column of a table."""

    title: str
    kind: Kind = Kind.TEXT


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under titles, fitted to the terminal if stdout is one."""
    width = terminal_width()
    for line in table_lines(columns, rows, width):
        show(line)


def terminal_width() -> int | None:
    """Return the width of the terminal on stdout (characters), or None if it is none."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Return the lines of a table.

    Args:
        columns: The columns.
        rows: The cells of each row, one for each column.
        width: Width of the terminal (characters); None for a table with everything.
    """
    shown: list[Sequence[str]] = (
        [*zip(*rows, strict=True)] if rows else [()] * len(columns)
    )
    if width is not None:
        shown = [
            _shortened(column.kind, cells)
            for column, cells in zip(columns, shown, strict=True)
        ]
    grid = [
        [column.title, *(branded(written_out(cell)) for cell in cells)]
        for column, cells in zip(columns, shown, strict=True)
    ]
    widths = [max(map(cells_of, cells)) for cells in grid]
    if width is not None:
        widths = _fitted(columns, widths, width)
    return [
        _line(columns, cells, widths, states)
        for cells, states in zip(zip(*grid, strict=True), ((), *rows), strict=True)
    ]


def print_pairs(
    pairs: Mapping[str, str], states: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Print names and values in two columns, empty values left out; long values are wrapped on a terminal.

    Args:
        pairs: The names and values.
        states: States with which values begin, by name; they are shown in their colours.
    """
    label = max(map(len, pairs))
    for name, value in pairs.items():
        if not value:
            continue
        lines = wrapped(branded(written_out(value)), label + len(_GAP))
        if state := states.get(name):
            lines[0] = lines[0].replace(state, painted(state, state), 1)
        for number, line in enumerate(lines):
            show(f"{'' if number else name:{label}}{_GAP}{line}")


def wrapped(text: str, indent: int) -> list[str]:
    """Return the lines of a text that begins in a column of the terminal; in a pipe, the text as one line."""
    room = (terminal_width() or 0) - indent
    if room < _LEAST_WRAPPED:
        return [text]
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return lines or [text]


def cells_of(text: str) -> int:
    """Return the width of a text on a terminal (character cells): wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in _NO_WIDTH
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` character cells; an ellipsis stands for what is left out."""
    if cells_of(text) <= width:
        return text
    mark = _ellipsis()
    while text and cells_of(text) > width - 1:
        text = text[:-1]
    return text + mark


def _shortened(kind: Kind, cells: Sequence[str]) -> Sequence[str]:
    if kind is Kind.ID:
        short = short_ids(cells)
        return [short[cell] for cell in cells]
    if kind is Kind.IDS:
        short = short_ids(word for cell in cells for word in cell.split(" "))
        return [" ".join(short[word] for word in cell.split(" ")) for cell in cells]
    return cells


def _fitted(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the widths of columns, taken from the widest that may be cut until the table fits."""
    fitted = [*widths]
    gaps = len(_GAP) * (len(columns) - 1)
    may_be_cut = [
        number
        for number, column in enumerate(columns)
        if column.kind not in {Kind.WHOLE, Kind.ID}
    ]
    while may_be_cut and sum(fitted) + gaps > width:
        widest = max(may_be_cut, key=fitted.__getitem__)
        if fitted[widest] <= _LEAST:
            break
        fitted[widest] -= 1
    return fitted


def _line(
    columns: Sequence[Column],
    cells: Sequence[str],
    widths: Sequence[int],
    row: Sequence[str],
) -> str:
    """Return a line; `row` is the row's content as it was given, empty for the titles."""
    parts: list[str] = []
    for number, (column, cell, width) in enumerate(
        zip(columns, cells, widths, strict=True)
    ):
        text = cut(cell, width)
        is_last = not any(cells[number + 1 :])
        padding = "" if is_last else " " * (width - cells_of(text))
        if column.kind is Kind.STATE and row:
            text = painted(text, row[number].split(":")[0].split(" (")[0])
        parts.append(text + padding)
        if is_last:
            break
    return _GAP.join(parts)


def _ellipsis() -> str:
    """Return the mark of a cut: one character that the terminal's encoding has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        "…".encode(encoding)
    except UnicodeEncodeError:
        return "~"
    return "…"
