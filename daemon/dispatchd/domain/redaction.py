"""Taking secrets out of every text that leaves the machine: log lines, summaries, reports, heartbeats.

Two kinds of rules: the values that are known, in every form that they can have (`secret_forms`), and what has
the form of a credential (`secret_patterns`). What both find is merged first and replaced then: one after the
other, a replacement could leave the rest of a place that overlaps it.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.domain.secret_forms import SHORTEST, forms
from dispatchd.domain.secret_patterns import Place, credentials

MARK: Final = "[redacted]"

REPORTED: Final = 16_000
"""How much of an output is reported (characters): its end."""

_ROUNDS: Final = 5
"""How often a text is looked through at most (count): a mark can bring a key and a value together."""

_SPAN: Final = 8 * 1024
"""How far a credential's form can reach, beside a private key (characters)."""

_LONGEST_HELD: Final = 128 * 1024
"""How much a stream holds back at most (characters)."""


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
        return max(
            (
                length
                for form in self._forms
                for length in range(SHORTEST, len(form))
                if text.startswith(form[-length:])
            ),
            default=0,
        )

    def _values(self, text: str) -> Iterator[Place]:
        for form in self._forms:
            if form in text:
                yield from _all(text, form)


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
    """Scrubs a text that comes in pieces; what is joined of its answers has no secret, wherever the cuts are."""

    _redactor: Redactor
    _held: str = field(default="", init=False)

    def feed(self, piece: str) -> str:
        """Take the next piece, and return what is certain by now."""
        self._held += piece
        hold = max(self._redactor.reach, _SPAN)
        if len(self._held) < 2 * hold:
            return ""
        cut = len(self._held) - hold
        for start, end in self._redactor.places(self._held):
            if start < cut < end or cut == start:
                cut = start
        if cut == 0 and len(self._held) > _LONGEST_HELD:
            cut = len(self._held) - hold
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._redactor.scrub(ready)

    def close(self) -> str:
        """Return the rest."""
        ready, self._held = self._held, ""
        return self._redactor.scrub(ready)


def _all(text: str, part: str) -> Iterator[Place]:
    start = text.find(part)
    while start >= 0:
        yield start, start + len(part)
        start = text.find(part, start + 1)


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
