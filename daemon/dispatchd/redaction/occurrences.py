"""Search for many texts at once: most of them are ruled out by one pass over the words of the text that is searched."""

import sys
from collections.abc import Collection, Iterator
from typing import Final, Literal

from attrs import define, field, frozen

from dispatchd.redaction.patterns import Place

_FEW: Final = 32
"""Most forms that are searched one after the other (count): each takes a thirtieth of the time of a pass over words."""

SHORT: Final = 4096
"""Longest text in which shortcuts cost more than they save (characters)."""

_WIDTHS: Final[tuple[tuple[int, Literal["Q", "I"]], ...]] = ((8, "Q"), (4, "I"))
"""Widths of words (bytes), and their letters for `memoryview.cast`."""


@frozen(repr=False)
class _Words:
    """Forms by the words of one width in them.

    Any place of a form in a text covers a whole aligned word, wherever it begins, if the form is at least
    twice as long as a word, less one byte. That word is one of as many in the form as a word has bytes.
    """

    width: int
    letter: Literal["Q", "I"]
    forms: dict[int, list[str]]

    def candidates(self, data: memoryview) -> Iterator[str]:
        """Yield the forms of which a word is in the data."""
        whole = len(data) // self.width * self.width
        for word in self.forms.keys() & data[:whole].cast(self.letter):
            yield from self.forms[word]


@define(repr=False)
class Forms:
    """Texts that are searched together."""

    every: tuple[str, ...] = ()
    _words: list[_Words] | None = field(default=None, init=False, eq=False)
    _rest: tuple[str, ...] = field(default=(), init=False, eq=False)
    """Forms that are searched one after the other."""

    def also(self, forms: set[str]) -> "Forms":
        """Return these forms and others."""
        return Forms(tuple(sorted(forms.union(self.every)))) if forms else self

    def beside(self, parts: Collection[str]) -> "Forms":
        """Return the forms of which a place in a text may have a character of one of these parts of the text."""
        ends = tuple(part[at:] for part in parts for at in range(len(part)))
        begins = tuple(
            part[:size] for part in parts for size in range(1, len(part) + 1)
        )
        return Forms(
            tuple(
                form
                for form in self.every
                if form.startswith(ends)
                or form.endswith(begins)
                or any(part in form or form in part for part in parts)
            )
        )

    def places(self, text: str) -> Iterator[Place]:
        """Yield the places of the forms in a text; those of one form that overlap each other are one."""
        is_plain = len(self.every) <= _FEW or len(text) <= SHORT
        for form in self.every if is_plain else self._candidates(text):
            if form in text:
                yield from _joint(text, form)

    def _candidates(self, text: str) -> Collection[str]:
        """Return the forms that may be in a text."""
        if self._words is None:
            # Once, and only for forms that are searched: that takes a millisecond for some hundreds.
            self._rest, self._words = _indexed(self.every)
        candidates = {*self._rest}
        if self._words:
            data = memoryview(_utf8(text))
            for words in self._words:
                candidates.update(words.candidates(data))
        return candidates


def _indexed(forms: tuple[str, ...]) -> tuple[tuple[str, ...], list[_Words]]:
    """Return the forms that aren't worth an index, and the index of the others."""
    left, index = {form: _utf8(form) for form in forms}, []
    for width, letter in _WIDTHS:
        fit = {form: data for form, data in left.items() if len(data) >= 2 * width - 1}
        if len(fit) <= _FEW:
            continue
        by_word: dict[int, list[str]] = {}
        for form, data in fit.items():
            del left[form]
            # Forms have their beginnings and ends in common rather than their middles.
            first = (len(data) - 2 * width + 1) // 2
            for at in range(first, first + width):
                word = int.from_bytes(data[at : at + width], sys.byteorder)
                by_word.setdefault(word, []).append(form)
        index.append(_Words(width, letter, by_word))
    return tuple(left), index


def _utf8(text: str) -> bytes:
    # In UTF-8, too, a text has a part if and only if its bytes have those of the part.
    return text.encode("utf-8", "surrogatepass")


def _joint(text: str, part: str) -> Iterator[Place]:
    """Yield the places of a part; those that overlap each other are one."""
    size = len(part)
    start = text.find(part)
    while start >= 0:
        end = start + size
        while (last := text.rfind(part, end - size + 1, end + size - 1)) >= 0:
            end = last + size
        yield start, end
        start = text.find(part, end)
