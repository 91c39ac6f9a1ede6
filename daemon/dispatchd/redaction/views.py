"""Views of a text: as it is shown, decoded, its lines joined. Each maps its characters to places in the text.

Secrets are searched in the views and cut from the text, so that the text beside them stays as it was written.
"""

import html
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, count
from operator import add
from typing import Final

from attrs import define, field

from dispatchd.redaction.invisible import Hidden, are_colours, hidden
from dispatchd.redaction.patterns import Place

_DEEPEST: Final = 3
"""Most decodings of a text on top of each other (count), such as JSON in JSON in a URL."""

_FOLD: Final = re.compile(r"(\n[ \t]{0,8}|\t)")
"""End of a line with the indentation after it: base64 is wrapped, and so is the text on a terminal."""

_FOLD_WITHOUT_TABS: Final = re.compile(r"(\n {0,8})")
"""The same in a text without tabs, in half the time."""

_PREFIX: Final = r"""
    [>|\#+*-]{1,3}+(?=[ \t\[])                                    # quotes, comments, diffs, set -x
  | \[(?!redacted\])[^\]\n]{1,60}+\]
  | [A-Z][a-z]{2}[ ][ \d]\d[ ]\d\d:\d\d:\d\d[ ][\w.-]{1,64}+[ ][\w./-]{1,64}+(?:\[\d{1,8}\])?:   # syslog
  | (?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d(?::\d\d)?(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?(?=[ \t])
  | (?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL)\b
  | [\w./@-]{1,40}+(?:[:>](?=[ \t])|[ \t]{0,20}+\|)               # log:, web_1  |
  | \d{1,8}+(?:[:|]|(?=[ \t]))                                    # numbers of lines
"""
_PREFIXES: Final = rf"(?:[ \t]{{0,8}}+(?:{_PREFIX})){{0,5}} [ \t]{{0,8}}"
_PREFIXED_FOLD: Final = re.compile(
    rf"([\\\n\t](?:(?<=\t) | (?:(?<=\n)|(?<=\\)\n) {_PREFIXES}))", re.VERBOSE
)
"""End of a line with the prefix that a log, a quote or a diff puts before each line, or with a backslash before it."""

_PREFIXED_END: Final = re.compile(rf"(\n{_PREFIXES})", re.VERBOSE)
"""The same in a text with neither tabs nor backslashes before line ends, in half the time."""

_PREFIXED: Final = re.compile(_PREFIXES, re.VERBOSE)

_HEX: Final = "[0-9A-Fa-f]"
_ESCAPED: Final = re.compile(
    rf"""
    [%\\&'] (?:
      (?<=%) (?P<percent>
          [0-7]{_HEX}
        | [CDcd]{_HEX}%[89ABab]{_HEX} | [Ee]{_HEX}(?:%[89ABab]{_HEX}){{2}} | [Ff]{_HEX}(?:%[89ABab]{_HEX}){{3}}
      )
    | (?<=\\) (?:
          u(?P<utf16>[Dd][89ABab]{_HEX}{{2}}\\u[Dd][C-Fc-f]{_HEX}{{2}} | {_HEX}{{4}})
        | U(?P<utf32>000{_HEX}{{5}})
        | x(?P<hex>
            [CDcd]{_HEX}\\x[89ABab]{_HEX} | [Ee]{_HEX}(?:\\x[89ABab]{_HEX}){{2}}
          | [Ff]{_HEX}(?:\\x[89ABab]{_HEX}){{3}} | {_HEX}{{2}}
          )
        | (?P<octal>
            3[0-3][0-7]\\2[0-7]{{2}} | 34[0-7](?:\\2[0-7]{{2}}){{2}} | 35[0-7](?:\\2[0-7]{{2}}){{2}}
          | 36[0-7](?:\\2[0-7]{{2}}){{3}} | [0-3][0-7]{{2}}
          )
        | (?P<one>[^\n])
      )
    | (?<=&) (?P<reference>amp;|lt;|gt;|quot;|apos;|nbsp;|\#\d{{1,7}};|\#[xX]{_HEX}{{1,6}};)
    | (?<=') (?P<quote>\\''|"'"')
    )
    """,
    re.VERBOSE,
)
"""One character in the escapes of URLs, JSON, C, Go, Python, HTML, XML and shells."""

_MOST_COLOURS: Final = 64
"""Most different colours of a text that are looked at one by one (count)."""

SIGNS: Final = ("%", "\\", "&", "'\"'\"'")
"""Signs of an escape: without one of these a text has none."""

_NAMED: Final = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "a": "\a",
    "e": "\x1b",
    "0": "\0",
}


@define
class View:
    """Text with parts of another removed or replaced by one character. Made cheaply, mapped on demand."""

    text: str
    _before: "View | None" = None
    _pattern: re.Pattern[str] = _FOLD
    _replace: Callable[[re.Match[str]], str] | None = None
    _parts: list[str] | None = None
    """Parts of the other text that stay and that were removed, by turns, where they are known."""
    _removed: str = ""
    """Single character that was removed, where nothing else was."""
    _starts: list[int] = field(factory=list, init=False)
    """Beginning of each stretch in this text (characters)."""
    _origins: list[int] = field(factory=list, init=False)
    """Beginning of each stretch in the other text."""
    _widths: list[int] = field(factory=list, init=False)
    """Length, in the other text, of the part that the one character stands for; 0 for an unchanged stretch. Empty where
    parts were removed alone."""

    def changed(
        self,
        pattern: re.Pattern[str],
        replace: Callable[[re.Match[str]], str] | None = None,
    ) -> "View | None":
        """Return this view with the matches of a pattern removed, or replaced; None if that changes nothing.

        Args:
            pattern: Pattern of what is removed, as one group, or of what is replaced.
            replace: Returns what replaces a match.
        """
        if replace is None:
            # Its parts cost little now, and a search for them once a place is mapped as much as this one.
            view = self.of_parts(pattern.split(self.text))
            return None if view is self else view
        text = pattern.sub(replace, self.text)
        return None if text == self.text else View(text, self, pattern, replace)

    def of_parts(self, parts: list[str]) -> "View":
        """Return this view without every second of its parts."""
        if len(parts) == 1:
            return self
        return View("".join(parts[::2]), self, parts=parts)

    def without(self, characters: str) -> "View":
        """Return this view without some characters."""
        view = self
        for each in characters:
            text = view.text.replace(each, "")
            if len(text) < len(view.text):
                view = View(text, view, removed=each)
        return view

    def origin(self, place: Place) -> Place:
        """Return the place in the first text of a place in this one; not empty.

        Text that was removed before its first character or after its last is no part of it.
        """
        if self._before is None:
            return place
        if not self._starts:
            self._map(self._before.text)
        if self._replace is None:
            begin, end = map(self._unremoved, (place[0], place[1] - 1))
            return self._before.origin((begin, end + 1))
        start, last = place[0], place[1] - 1
        first = bisect_right(self._starts, start) - 1
        begin = self._origins[first]
        if not self._widths[first]:
            begin += start - self._starts[first]
        final = bisect_right(self._starts, last) - 1
        end = self._origins[final] + self._widths[final]
        if not self._widths[final]:
            end += last - self._starts[final] + 1
        return self._before.origin((begin, end))

    def _unremoved(self, at: int) -> int:
        """Return the place, in the other text, of a character of this one, where parts were removed alone."""
        index = bisect_right(self._starts, at) - 1
        return self._origins[index] + at - self._starts[index]

    def _map(self, before: str) -> None:
        if self._parts is not None:
            self._map_parts(self._parts)
        elif self._removed:
            self._map_character(before, self._removed)
        elif self._replace is not None:
            self._map_replaced(before, self._replace)

    def _map_parts(self, parts: list[str]) -> None:
        # A coloured log has many thousands of them.
        lengths = [*map(len, parts)]
        self._starts = [*accumulate(lengths[:-1:2], initial=0)]
        self._origins = [*accumulate(lengths, initial=0)][:-1:2]

    def _map_character(self, before: str, character: str) -> None:
        lengths = [*map(len, before.split(character))]
        self._starts = [*accumulate(lengths[:-1], initial=0)]
        self._origins = [*map(add, self._starts, count())]

    def _map_replaced(
        self, before: str, replace: Callable[[re.Match[str]], str]
    ) -> None:
        self._stretch(0, 0, 0)
        removed = 0
        for match in self._pattern.finditer(before):
            length, new_length = len(match[0]), len(replace(match))
            at = match.start() - removed
            if new_length:
                self._stretch(at, match.start(), length)
            self._stretch(at + new_length, match.end(), 0)
            removed += length - new_length

    def _stretch(self, start: int, origin: int, width: int) -> None:
        self._starts.append(start)
        self._origins.append(origin)
        self._widths.append(width)


@define
class Readings:
    """Readings of a text, one for each kind of reader; equal ones share a view."""

    written: View
    seen: View
    """As a terminal and a page show it."""
    sequences: frozenset[str] | None = frozenset()
    """Sequences that it has, where an escape begins each of them; None if that isn't known."""
    _hidden: Hidden | None = None
    _others: tuple[View, ...] | None = field(default=None, init=False)

    @property
    def others(self) -> tuple[View, ...]:
        """As readers see it that know fewer sequences than a terminal, and show the rest of them."""
        if self._others is None:
            every = _others(self.written, self._hidden) if self._hidden else ()
            self._others = tuple(_different(self.seen, *every)[1:])
        return self._others

    @property
    def views(self) -> list[View]:
        """Views that differ from each other, the visible one first."""
        return _different(self.seen, self.written, *self.others)

    @property
    def colours(self) -> frozenset[str] | None:
        """Parts of colours that a reader without colours shows; None if the text may have other sequences."""
        sequences = self.sequences
        if sequences is None or len(sequences) > _MOST_COLOURS:
            return None
        if not are_colours(sequences):
            return None
        return frozenset(each[1:] for each in sequences if len(each) > 1)


def readings(text: str) -> Readings:
    """Return the readings of a text."""
    written = View(text)
    there = hidden(text)
    if there is None:
        return Readings(written, written)
    if not there.is_simple:
        seen = written.changed(there.patterns.sequences) or written
        return Readings(written, seen, sequences=None, hidden=there)
    parts = there.cut(text)
    seen = written.of_parts(parts).without(there.alone)
    return Readings(written, seen, frozenset(parts[1::2]), there)


def _others(written: View, there: Hidden) -> tuple[View, View]:
    """Return the views of readers that know colours alone, and of readers that know no sequence."""
    if there.is_simple:
        colours = written.of_parts(there.cut_colours(written.text))
        return colours.without(there.alone), written.without(there.characters)
    patterns = there.patterns
    return (
        written.changed(patterns.colours) or written,
        written.changed(patterns.characters) or written,
    )


def _different(*views: View) -> list[View]:
    """Return the views whose texts differ from each other."""
    by_text: dict[str, View] = {}
    for view in views:
        by_text.setdefault(view.text, view)
    return [*by_text.values()]


def decoded(view: View) -> Iterator[View]:
    """Yield a view decoded, once and several times over, as long as there is something to decode."""
    for _ in range(_DEEPEST):
        if not any(sign in view.text for sign in SIGNS):
            return
        deeper = view.changed(_ESCAPED, _character)
        if deeper is None:
            return
        view = _shown(deeper)
        yield view


def _shown(view: View) -> View:
    there = hidden(view.text)
    if there is None:
        return view
    if there.is_simple:
        return view.of_parts(there.cut(view.text)).without(there.alone)
    return view.changed(there.patterns.sequences) or view


def joined(view: View) -> View:
    """Return a view with its lines joined."""
    if "\t" in view.text:
        return view.changed(_FOLD) or view
    if "\n " in view.text:
        return view.changed(_FOLD_WITHOUT_TABS) or view
    return view.without("\n")


def joined_without_prefixes(view: View) -> View | None:
    """Return a view with its lines joined, and without the prefix of each; None where there is none."""
    text = view.text
    if "\n" not in text:
        return None
    if "\t" in text or "\\\n" in text:
        return view.changed(_PREFIXED_FOLD)
    return view.changed(_PREFIXED_END)


def end_of_prefix(line: str) -> int:
    """Return the length of the prefix that a log, a quote or a diff has put before a line (characters)."""
    prefix = _PREFIXED.match(line)
    return prefix.end() if prefix else 0


def folded(text: str) -> str:
    """Return a text in the form of a view whose lines are joined."""
    return _FOLD.sub("", text.strip(" \t\n"))


def _character(match: re.Match[str]) -> str:
    """Return the one character that an escape stands for."""
    kind = match.lastgroup or ""
    return _MEANINGS[kind](match[kind])[:1]


def _of_bytes(data: bytes) -> str:
    # A single byte beyond ASCII is a character of Latin-1, as Python writes it.
    return data.decode(errors="replace") if len(data) > 1 else chr(data[0])


_MEANINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "percent": lambda code: _of_bytes(bytes.fromhex(code.replace("%", ""))),
    "utf16": lambda code: bytes.fromhex(code.replace("\\u", "")).decode(
        "utf-16-be", "replace"
    ),
    "utf32": lambda code: bytes.fromhex(code).decode("utf-32-be", "replace"),
    "hex": lambda code: _of_bytes(bytes.fromhex(code.replace("\\x", ""))),
    "octal": lambda code: _of_bytes(
        bytes(int(digits, 8) for digits in code.split("\\"))
    ),
    "one": lambda code: _NAMED.get(code, code),
    "reference": lambda code: html.unescape(f"&{code}"),
    "quote": lambda _: "'",
}
"""Meaning of an escape, by the group of `_ESCAPED` that has its code."""
