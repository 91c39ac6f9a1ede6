"""Numbers of the lines of a log, from its beginning, though a page shows its end alone."""

from collections.abc import Callable
from threading import Lock
from typing import Final

from attrs import define, field

_PIECE: Final = 1024 * 1024
"""Part of a log that is read at once (bytes)."""

_KNOWN: Final = 200
"""Logs of which a count is kept (count)."""

Read = Callable[[int, int], bytes]
"""Read of a log from an offset, at most so much (bytes)."""


@define
class LineCounts:
    """Lines of logs that were counted before, so that a page that is loaded again counts what is new alone."""

    _known: dict[str, tuple[int, int]] = field(factory=dict, init=False)
    """Log -> an offset (bytes), and the line ends before it (count)."""
    _lock: Lock = field(factory=Lock, init=False)

    def line_at(self, log: str, read: Read, offset: int) -> int:
        """Return the number of the line at an offset of a log; the first one is 1. Blocks.

        Args:
            log: A name of the log.
            read: Reads it.
            offset: The offset (bytes).
        """
        with self._lock:
            at, ends = self._known.pop(log, (0, 0))
        if at > offset:
            at, ends = 0, 0
        while at < offset and (piece := read(at, min(_PIECE, offset - at))):
            ends += piece.count(b"\n")
            at += len(piece)
        with self._lock:
            self._known[log] = (at, ends)
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        return ends + 1


def offset_of(line: int, read: Read) -> int | None:
    """Return the offset of a line of a log by its number (bytes); None if the log has fewer. Blocks."""
    at, left = 0, line - 1
    while piece := read(at, _PIECE):
        ends = piece.count(b"\n")
        if ends >= left:
            place = 0
            for _ in range(left):
                place = piece.index(b"\n", place) + 1
            return at + place
        left -= ends
        at += len(piece)
    return None


def numbered(html: str, part: int, line: int) -> str:
    """Return lines of a log with their numbers, which an address can name.

    Args:
        html: The lines.
        part: Number of the part of the log.
        line: Number of the first line.
    """
    *lines, rest = html.split("\n")
    marked = [_mark(part, number) + text for number, text in enumerate(lines, line)]
    last = _mark(part, line + len(lines)) + rest if rest else ""
    return "\n".join((*marked, last))


def _mark(part: int, line: int) -> str:
    name = f"L{line}" if part == 1 else f"L{part}.{line}"
    return f'<i id="{name}" data-n="{line}"></i>'
