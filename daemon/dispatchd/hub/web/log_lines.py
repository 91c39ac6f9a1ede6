"""Lines of a log on a page: their numbers, from its beginning, though its end alone is shown, and folds of groups."""

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Final

from attrs import define, field, frozen

from dispatchd.hub.web.ansi import command_of

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


@frozen(kw_only=True)
class _Group:
    """Lines of one group, or of none, each as its text and as HTML."""

    lines: list[tuple[str, str]]
    is_titled: bool
    """True if the first line has the title; False where a part before has it, and for lines of no group."""
    is_inside: bool
    """False for lines of no group."""
    has_ended: bool

    @property
    def html(self) -> str:
        return "".join(html for _, html in self.lines)

    def fold(self, *, is_open: bool) -> str:
        """Return the group as a fold; what belongs to a fold before it is marked as such."""
        if not self.is_inside:
            return self.html
        if not self.is_titled:
            return f'<span class="in">{self.html}</span>'
        (_, title), *rest = self.lines
        content = "".join(html for _, html in rest)
        opened = " open" if is_open else ""
        return f"<details{opened}><summary>{title}</summary>{content}</details>"

    def has_error(self) -> bool:
        """Return whether a line of the group is an error."""
        return any(command_of(text) == "error" for text, _ in self.lines)


def folded(
    html: str,
    text: str,
    *,
    is_inside: bool = False,
    closes: bool = False,
    wanted: int = -1,
) -> tuple[str, bool]:
    """Return lines of a log with their groups as folds, and whether the last line is in a group that continues.

    As at GitHub, groups aren't nested: a group ends the one before.

    Args:
        html: The lines.
        text: The same lines, as their command wrote them.
        is_inside: True if a group before the lines continues in them.
        closes: True to close the folds of groups that have ended, but for those with an error or the wanted line.
        wanted: The wanted line, by its place; negative for none.
    """
    folds, at = [], 0
    lines = zip(text.split("\n"), _ended(html), strict=False)
    for group in _groups(lines, is_inside=is_inside):
        is_wanted = at <= wanted < at + len(group.lines)
        may_close = closes and group.has_ended and not is_wanted
        folds.append(group.fold(is_open=not (may_close and not group.has_error())))
        at += len(group.lines)
        is_inside = group.is_inside and not group.has_ended
    return "".join(folds), is_inside


def _ended(html: str) -> list[str]:
    *lines, rest = html.split("\n")
    ended = [f"{line}\n" for line in lines]
    return [*ended, rest] if rest else ended


def _groups(lines: Iterable[tuple[str, str]], *, is_inside: bool) -> Iterator[_Group]:
    """Yield lines by the groups that they are in, in their order."""
    group: list[tuple[str, str]] = []
    is_titled = False

    def made(*, has_ended: bool) -> Iterator[_Group]:
        if group:
            yield _Group(
                lines=group,
                is_titled=is_titled,
                is_inside=is_inside,
                has_ended=has_ended,
            )

    for text, html in lines:
        command = command_of(text)
        if command == "group":
            yield from made(has_ended=True)
            group, is_titled, is_inside = [], True, True
        group.append((text, html))
        if command == "endgroup" and is_inside:
            yield from made(has_ended=True)
            group, is_titled, is_inside = [], False, False
    yield from made(has_ended=False)


def _mark(part: int, line: int) -> str:
    name = f"L{line}" if part == 1 else f"L{part}.{line}"
    return f'<i id="{name}" data-n="{line}"></i>'
