"""Taking secrets out of every text that leaves the machine: log lines, summaries, reports, heartbeats.

Two kinds of rules: the values that are known, in every form that they can have (`encodings`), and what has
the form of a credential (`patterns`). What both find is merged first and replaced then: one after the
other, a replacement could leave the rest of a place that overlaps it.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.redaction.encodings import SHORTEST, forms
from dispatchd.redaction.patterns import LONGEST, Place, credentials

MARK: Final = "[redacted]"

REPORTED: Final = 16_000
"""How much of an output is reported (characters): its end."""

_ROUNDS: Final = 5
"""How often a text is looked through at most (count): a mark can bring a key and a value together."""

_SPAN: Final = 16 * 1024
"""How much of a credential is seen before it is known to be one (characters): a JWT has three long parts."""

_KEY_AND_INDENT: Final = 128
"""How far before a value its key begins at most, with what tells that it is one (characters)."""

_FOLDED_FROM: Final = 12
"""Forms of this length on are found over several lines (characters): shorter ones would join chance."""

_FOLD: Final = re.compile(r"(?:\r?\n|(?:\\r)?\\n)[ \t]{0,8}")
"""A line's end inside a value: base64 is wrapped, and so is what a terminal shows; JSON escapes it."""

_LINE_FOLD: Final = re.compile(r"\n[ \t]{0,8}")
"""The same where nothing is escaped, which is most of the time; ten times quicker."""


@frozen
class Redactor:
    """What is made of some secrets, once; cheap to use often, from any thread."""

    _forms: tuple[str, ...]

    @classmethod
    def of(cls, secrets: Iterable[str]) -> Self:
        """Return the redactor of some secrets."""
        found = {form for secret in secrets for form in forms(secret)}
        return cls(tuple(sorted(found)))

    @property
    def reach(self) -> int:
        """How long a form of a secret can be (characters)."""
        return max(map(len, self._forms), default=0)

    def scrub(self, text: str) -> str:
        """Return a text without secrets; a second time changes nothing more."""
        for _ in range(_ROUNDS):
            clean = _marked(text, self.places(text))
            if clean == text:
                break
            text = clean
        return text

    def places(self, text: str) -> list[Place]:
        """Return where there are secrets, in order, none of which touches another; never inside a mark."""
        found = sorted([*self._values(text), *credentials(text)])
        marks = list(_all(text, MARK)) if MARK in text else []
        return _merged(found, marks)

    def starts_within(self, text: str) -> int:
        """Return how much of the beginning of a text is the end of a known secret (characters)."""
        head = text[:SHORTEST]
        if len(head) < SHORTEST:
            return 0
        return max((_rest_of(form, text, head) for form in self._forms), default=0)

    def _values(self, text: str) -> Iterator[Place]:
        for form in self._forms:
            if form in text:
                yield from _all(text, form)
        if "\n" in text or "\\n" in text:
            yield from self._folded_values(text)

    def _folded_values(self, text: str) -> Iterator[Place]:
        if "\\n" in text:
            unfolded = _FOLD.sub("", text)
        else:
            unfolded = _LINE_FOLD.sub("", text.replace("\r\n", "\n"))
        found = [
            place
            for form in self._forms
            if len(form) >= _FOLDED_FROM and form in unfolded
            for place in _all(unfolded, form)
        ]
        if not found:
            return
        folds, shifts, removed = [], [0], 0
        for fold in _FOLD.finditer(text):
            folds.append(fold.start() - removed)
            removed += len(fold[0])
            shifts.append(removed)
        for start, end in found:
            # A fold right after the last character is no part of it, one before the first neither.
            yield (
                start + shifts[bisect_right(folds, start)],
                end + shifts[bisect_right(folds, end - 1)],
            )


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return a text without some secrets, and without what has the form of one."""
    return Redactor.of(secrets).scrub(text)


def reported_tail(text: str, redactor: Redactor, *, cut_before: int = 0) -> str:
    """Return the end of an output as it is reported: without secrets, with a line about what was cut.

    Args:
        text: The output, or its end; more than is reported, so that no secret is halved by the cut.
        redactor: What takes the secrets out.
        cut_before: How much of the output is not in `text` (bytes).
    """
    whole = len(text) + cut_before
    if cut_before:
        text = text[redactor.starts_within(text) :]
    clean = redactor.scrub(text)
    if not cut_before and len(clean) <= REPORTED:
        return clean
    kept = clean[-REPORTED:]
    # Not in the middle of a mark, and not in the middle of a line where that costs little.
    first = kept.find("\n", 0, REPORTED // 20) + 1
    kept = kept[first:]
    return f"[... {whole - len(kept):,} of {whole:,} characters cut ...]\n{kept}"


@define
class StreamRedactor:
    """Scrubs a text that comes in pieces; what is joined of its answers has no secret, wherever the cuts are.

    It keeps what it has answered for a while: a key may be long gone when its value goes on. It does not keep
    all of a value or a private key of more than `LONGEST` characters, and may tell the rest of such a one.
    """

    _redactor: Redactor
    _seen: str = field(default="", init=False)
    _told: int = field(default=0, init=False)

    def feed(self, piece: str) -> str:
        """Take the next piece, and return what is certain by now."""
        self._seen += piece
        # A form over several lines is longer than it is in one.
        hold = max(2 * self._redactor.reach, _SPAN)
        if len(self._seen) - self._told < 2 * hold:
            return ""
        clean, last = self._answer(len(self._seen) - hold)
        keep = self._told - hold
        if last >= 0:
            keep = max(min(keep, last - _KEY_AND_INDENT), self._told - hold - LONGEST)
        keep = max(keep, 0)
        self._seen, self._told = self._seen[keep:], self._told - keep
        return clean

    def close(self) -> str:
        """Return the rest."""
        clean, _ = self._answer(len(self._seen))
        self._seen, self._told = "", 0
        return clean

    def _answer(self, until: int) -> tuple[str, int]:
        """Return what is clean up to a character, and where what goes on there began (-1: nothing does)."""
        clean: list[str] = []
        last = -1
        for start, end in self._redactor.places(self._seen):
            if start >= until or end < self._told:
                continue
            if start >= self._told:
                clean += (self._seen[self._told : start], MARK)
            # What began before has its mark already; only its rest is new.
            self._told, last = end, start
        if self._told < until:
            clean.append(self._seen[self._told : until])
            self._told, last = until, -1
        return "".join(clean), last


def _all(text: str, part: str) -> Iterator[Place]:
    start = text.find(part)
    while start >= 0:
        yield start, start + len(part)
        start = text.find(part, start + 1)


def _rest_of(form: str, text: str, head: str) -> int:
    """Return how much of the end of a form a text with some head begins with (characters)."""
    for start, _ in _all(form, head):
        if start > 0 and text.startswith(form[start:]):
            return len(form) - start
    return 0


def _merged(found: list[Place], marks: list[Place]) -> list[Place]:
    """Return places in order, those that touch made one, without the parts that are marks already."""
    merged: list[Place] = []
    for start, end in found:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return [each for each in merged if not _in_a_mark(each, marks)]


def _in_a_mark(place: Place, marks: list[Place]) -> bool:
    index = bisect_right(marks, place) - 1
    # The mark that begins where the place does sorts before it or after it, by their ends.
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
