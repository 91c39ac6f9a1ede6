"""Redactor: removes secrets from every text that leaves the machine: log lines, summaries, reports, heartbeats.

There are two kinds of rules: known values, in every promised form (`encodings`), and forms of credentials
(`patterns`). Both search each reading of a text (`views`). The places found are merged first and replaced then: one
after the other, a replacement could leave the rest of an overlapping place.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Self

from attrs import frozen

from dispatchd.redaction.encodings import SHORTEST, forms, values
from dispatchd.redaction.invisible import shown
from dispatchd.redaction.occurrences import SHORT, Forms
from dispatchd.redaction.patterns import HINTS, Place, Text, credentials
from dispatchd.redaction.settled import is_settled
from dispatchd.redaction.views import (
    Readings,
    View,
    decoded,
    folded,
    joined,
    joined_without_prefixes,
    readings,
)

MARK: Final = "[redacted]"

REPORTED: Final = 16_000
"""Longest part of an output that is reported (characters): its end."""

_ROUNDS: Final = 5
"""Most searches of one text (count): a mark can bring a key and a value together."""

_SHORTEST_BEGIN: Final = 4
"""Shortest beginning of a secret that is held back (characters): shorter ones tell little, and occur everywhere."""

_FOLDED_FROM: Final = 12
"""Shortest form that is searched across several lines (characters): shorter ones would match by chance."""


@frozen(repr=False)
class SecretForms:
    """Forms of one secret that are searched. To find them takes a millisecond for a token, and ten for a key in PEM."""

    written: frozenset[str]
    """Forms as they are written."""
    seen: frozenset[str]
    """Visible text of the forms."""
    in_joined: frozenset[str]
    """Visible text of the long forms, as it is where lines are joined."""

    @classmethod
    def of(cls, secret: str) -> Self:
        """Return the forms of a secret, and of its lines and the strings in its JSON."""
        return cls.of_parts(values(secret))

    @classmethod
    def of_parts(cls, parts: Collection[str]) -> Self:
        """Return the forms of values that have no parts which are searched by themselves."""
        written = forms(parts)
        # A part of a value that looks like an escape is decoded where a text is decoded.
        misread = {view.text for part in parts for view in decoded(View(part))}
        seen = {form for form in map(shown, written | misread) if len(form) >= SHORTEST}
        in_joined = {form for form in map(folded, seen) if len(form) >= _FOLDED_FROM}
        return cls(written, frozenset(seen), frozenset(in_joined))


@frozen
class Redactor:
    """Patterns of secrets, compiled once. Cheap to use often, from any thread."""

    _forms: tuple[str, ...]
    """Forms as they are written."""
    _with_hidden: Forms
    """Forms with invisible parts."""
    _in_lines: Forms
    """Visible text of the forms that are searched before lines are joined."""
    _in_joined: Forms
    """Visible text of the forms that are searched where lines are joined."""

    @classmethod
    def of(cls, secrets: Iterable[str]) -> Self:
        """Return the redactor of some secrets."""
        return cls.of_forms(map(SecretForms.of, secrets))

    @classmethod
    def of_forms(cls, secrets: Iterable[SecretForms]) -> Self:
        """Return the redactor of some secrets whose forms are known."""
        nothing = cls(
            forms=(), with_hidden=Forms(), in_lines=Forms(), in_joined=Forms()
        )
        return nothing._and(secrets)

    def also(self, masks: Collection[str]) -> Self:
        """Return the redactor of these secrets and of masks."""
        return self._and([SecretForms.of_parts(masks)])

    def _and(self, secrets: Iterable[SecretForms]) -> Self:
        every = list(secrets)
        written = {form for secret in every for form in secret.written}
        seen = {form for secret in every for form in secret.seen}
        in_joined = {form for secret in every for form in secret.in_joined}
        return type(self)(
            forms=tuple(sorted(written.union(self._forms))),
            with_hidden=self._with_hidden.also(written - seen),
            in_lines=self._in_lines.also(seen - in_joined),
            in_joined=self._in_joined.also(in_joined),
        )

    @property
    def reach(self) -> int:
        """Length of the longest form of a secret (characters)."""
        return max(map(len, self._forms), default=0)

    def scrub(self, text: str) -> str:
        """Return a text without secrets; a second call changes nothing more."""
        return _marked(text, self.places(text))

    def places(self, text: str) -> list[Place]:
        """Return the places of secrets, in order. None touches another, and none is inside a mark."""
        read = readings(text)
        searched = _searched(read)
        places = self._look(read, searched)
        if not places or self._is_settled(text, places, searched):
            return places
        for _ in range(_ROUNDS - 1):
            read = readings(_marked(text, places))
            more = self._look(read, _searched(read))
            if not more:
                break
            places = _merged(sorted([*places, *_unmarked(more, places)]))
        return places

    def _look(self, read: Readings, searched: list[tuple[View, Text]]) -> list[Place]:
        text = read.written.text
        places = [
            view.origin(place) for view, each in searched for place in credentials(each)
        ]
        if self._forms:
            places += self._values(read)
        marks = list(_all(text, MARK)) if MARK in text else []
        return [
            place for place in _merged(sorted(places)) if not _in_a_mark(place, marks)
        ]

    @property
    def _every(self) -> Iterator[str]:
        """Forms of each kind."""
        for forms_ in (self._with_hidden, self._in_lines, self._in_joined):
            yield from forms_.every

    def _is_settled(
        self, text: str, places: list[Place], searched: list[tuple[View, Text]]
    ) -> bool:
        """Return whether a second search would find nothing; False if that isn't known."""
        if len(text) <= SHORT:
            return False
        every = (self._with_hidden, self._in_lines, self._in_joined)
        if any(each.beside([MARK]).every for each in every):
            return False
        return is_settled(text, places, MARK, searched)

    def starts_within(self, text: str) -> int:
        """Return the length of the end of a known secret with which a text begins (characters)."""
        return max(map(self._rest_within, readings(text[: 4 * self.reach]).views))

    def begins_within(self, text: str) -> int:
        """Return the length of the end of a text that may be the beginning of a known secret (characters)."""
        if not self._forms:
            return 0
        end = text[-4 * self.reach :]
        views = [each for view in readings(end).views for each in (view, joined(view))]
        return max(self._begun_within(view, len(end)) for view in views)

    def _begun_within(self, view: View, size: int) -> int:
        begun = max((_begin_of(form, view.text) for form in self._every), default=0)
        if not begun:
            return 0
        last = len(view.text)
        return size - view.origin((last - begun, last))[0]

    def _rest_within(self, view: View) -> int:
        head = view.text[:SHORTEST]
        if len(head) < SHORTEST:
            return 0
        rest = max((_rest_of(form, view.text, head) for form in self._every), default=0)
        return view.origin((0, rest))[1] if rest else 0

    def _values(self, read: Readings) -> Iterator[Place]:
        for view in (read.seen, *decoded(read.seen)):
            yield from _occurrences(view, self._in_lines)
            yield from _occurrences(joined(view), self._in_joined)
        yield from self._values_of_others(read)
        if read.written is not read.seen:
            yield from _occurrences(read.written, self._with_hidden)
        without_prefixes = joined_without_prefixes(read.seen)
        if without_prefixes is not None:
            yield from _occurrences(without_prefixes, self._in_joined)

    def _values_of_others(self, read: Readings) -> Iterator[Place]:
        """Yield the places in the other readings, but for some that are in the visible one."""
        in_lines, in_joined = self._in_lines, self._in_joined
        is_long = len(read.written.text) > SHORT
        if is_long and (colours := read.colours) is not None:
            # The visible reading has all that has no character of a colour.
            in_lines, in_joined = in_lines.beside(colours), in_joined.beside(colours)
        if not in_lines.every and not in_joined.every:
            return
        for view in read.others:
            yield from _occurrences(view, in_lines)
            if in_joined.every:
                yield from _occurrences(joined(view), in_joined)


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return a text without the given secrets, and without anything in the form of a credential."""
    return Redactor.of(secrets).scrub(text)


def reported_tail(text: str, redactor: Redactor, *, cut_before: int = 0) -> str:
    """Return the end of an output as it is reported: without secrets, with a line about what was cut.

    Args:
        text: The output, or its end; longer than the reported part, so that the cut halves no secret.
        redactor: Removes the secrets.
        cut_before: Size of the output before `text` (bytes).
    """
    whole = len(text) + cut_before
    if cut_before:
        text = text[redactor.starts_within(text) :]
    clean = redactor.scrub(text)
    if not cut_before and len(clean) <= REPORTED:
        return clean
    tail = clean[-REPORTED:]
    # Not in the middle of a mark, and not in the middle of a line where that costs little.
    first = tail.find("\n", 0, REPORTED // 20) + 1
    tail = tail[first:]
    return f"[... {whole - len(tail):,} of {whole:,} characters cut ...]\n{tail}"


def _searched(read: Readings) -> list[tuple[View, Text]]:
    """Return the readings that are searched for credentials."""
    seen = Text.of(read.seen.text)
    if read.written is read.seen:
        return [(read.seen, seen)]
    # What the written text has and the visible one hasn't, has a character of a sequence.
    hints: Iterable[str] = HINTS
    if read.sequences is not None:
        swallowed = {*"".join(read.sequences).lower()}
        hints = [
            each
            for each in HINTS
            if each in seen.hints or not swallowed.isdisjoint(each)
        ]
    return [(read.seen, seen), (read.written, Text.of(read.written.text, hints))]


def _occurrences(view: View, forms_: Forms) -> Iterator[Place]:
    return map(view.origin, forms_.places(view.text))


def _all(text: str, part: str) -> Iterator[Place]:
    start = text.find(part)
    while start >= 0:
        yield start, start + len(part)
        start = text.find(part, start + 1)


def _rest_of(form: str, text: str, head: str) -> int:
    """Return the length of the end of a form with which a text begins, given the text's head (characters)."""
    for start, _ in _all(form, head):
        if start > 0 and text.startswith(form[start:]):
            return len(form) - start
    return 0


def _begin_of(form: str, text: str) -> int:
    """Return the length of the beginning of a form with which a text ends, but for its shortest ones (characters)."""
    end = text[max(0, len(text) - len(form) + 1) :]
    for start, _ in _all(end, form[:_SHORTEST_BEGIN]):
        if form.startswith(end[start:]):
            return len(end) - start
    return 0


def _merged(places: list[Place]) -> list[Place]:
    """Return places in order; those that touch are merged."""
    merged: list[Place] = []
    for start, end in places:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _unmarked(marked_places: list[Place], places: list[Place]) -> Iterator[Place]:
    """Yield places of a marked text as places of the text before. One that touches a mark includes the part under it."""
    marks, grown = [0], 0
    for start, end in places:
        marks.append(start + grown)
        grown += len(MARK) - (end - start)
    covered = [(0, 0), *places]
    lengths = [0, *(len(MARK) for _ in places)]

    def before(at: int) -> Place:
        index = bisect_right(marks, at) - 1
        beyond = at - marks[index] - lengths[index]
        if beyond < 0:
            return covered[index]
        origin = covered[index][1] + beyond
        return origin, origin + 1

    for start, end in marked_places:
        yield before(start)[0], before(end - 1)[1]


def _in_a_mark(place: Place, marks: list[Place]) -> bool:
    index = bisect_right(marks, place) - 1
    # The mark at the beginning of the place may sort before it or after it, depending on their ends.
    near = marks[max(0, index) : index + 2]
    return any(start <= place[0] and place[1] <= end for start, end in near)


def _marked(text: str, places: list[Place]) -> str:
    if not places:
        return text
    clean: list[str] = []
    done = 0
    for start, end in places:
        clean += (text[done:start], MARK)
        done = end
    return "".join((*clean, text[done:]))
