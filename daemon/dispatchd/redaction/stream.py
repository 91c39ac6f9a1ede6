"""Redaction of a text that comes in pieces, such as a log that somebody watches."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from attrs import define, field

from dispatchd.redaction.invisible import shown
from dispatchd.redaction.masks import MASK_LINE, MOST, masks
from dispatchd.redaction.patterns import LONGEST, Place
from dispatchd.redaction.redactor import MARK, Redactor

_SPAN: Final = 16 * 1024
"""Longest part of a credential that is needed to recognize it (characters): a JWT has three long parts."""

_KEY_AND_INDENT: Final = 128
"""Longest distance of a value from the beginning of its key, including the text that marks it as a key (characters)."""

_LONGEST_MARKER: Final = 200
"""Longest text in the place of a part that was left out (characters)."""

_MOST_HIDDEN: Final = 1024 * 1024
"""Longest invisible text that is waited through (characters)."""


@define
class StreamRedactor:
    """Scrubs a text that comes in pieces as `Redactor.scrub` scrubs the whole, wherever the pieces end.

    It stores the text that it has returned for a while, because a value may continue long after its key. It doesn't store
    all of a value or a private key of more than `LONGEST` characters, nor more than `_MOST_HIDDEN` invisible
    characters. It may return the rest of such a one.

    A mask in the text (`masks`) is a secret from its line on.
    """

    _redactor: Redactor
    _coming: deque[tuple[int, Redactor]] = field(factory=deque, init=False)
    """Redactors that count from a place on which has not been returned yet, in their order."""
    _masks: set[str] = field(factory=set, init=False)
    _is_cut: bool = field(default=False, init=False)
    """True if the next piece comes after a part that was left out."""
    _looked: int = field(default=0, init=False)
    """Place up to which the text has been searched for masks."""
    _seen: str = field(default="", init=False)
    _returned: int = field(default=0, init=False)
    _enough: int = field(default=0, init=False)
    """Text that has to be waiting before the next search (characters); more where little of it is visible."""

    def feed(self, piece: str) -> str:
        """Take the next piece. Return the text that is certain by now."""
        if self._is_cut and piece:
            piece = piece[self._newest.starts_within(piece) :]
            self._is_cut = False
        self._seen += piece
        self._look_for_masks()
        pending = len(self._seen) - self._returned
        if pending < self._enough:
            return ""
        hold = self._held(pending)
        if pending < 2 * hold:
            self._enough = 2 * max(hold, pending)
            return ""
        self._enough = 0
        clean, last = self._answer(len(self._seen) - hold)
        keep = self._returned - hold
        if last >= 0:
            keep = max(
                min(keep, last - _KEY_AND_INDENT), self._returned - hold - LONGEST
            )
        self._drop(max(keep, 0))
        return clean

    def skip(self, marker: re.Pattern[str], values: Iterable[str]) -> None:
        """Note that a part of the text was left out here, and that a marker may end the text before it.

        A secret that this has cut in two shows neither of its ends.

        Args:
            marker: Form of what stands in its place, at the end of the text before it.
            values: Masks in that part; they count from here on.
        """
        near = max(self._returned, len(self._seen) - _LONGEST_MARKER)
        if found := marker.search(self._seen, near):
            before = self._seen[self._returned : found.start()]
            if begun := self._newest.begins_within(before):
                kept = self._seen[: found.start() - begun]
                self._seen = f"{kept}{MARK}{found[0]}"
                self._looked = min(self._looked, len(self._seen))
        for value in values:
            self._mask(len(self._seen), value)
        self._is_cut = True

    def glimpse(self, fresh: int) -> str:
        """Return the whole lines behind the text that was returned that are most likely clean; changes nothing.

        The next `feed` may mask more of them, because what comes then may belong to a secret in them. Text with
        which a known secret may begin is left out, and so is a secret that may continue.

        Args:
            fresh: Length of the end that was written just now, so that a secret in it may be incomplete (characters).
        """
        seen = self._seen
        redactor = self._newest
        settled = len(seen) - max(fresh, redactor.begins_within(seen))
        until = seen.rfind("\n", self._returned, max(settled, self._returned)) + 1
        if until <= self._returned:
            return ""
        places = redactor.places(seen)
        for start, end in reversed(places):
            # A private key at the end of the text may have more lines.
            is_open = start < until <= end + 1 and _is_begun_key(seen[start:end])
            if is_open or start < until <= end:
                until = seen.rfind("\n", self._returned, max(start, self._returned)) + 1
        if until <= self._returned:
            return ""
        return self._clean(until, places)[0]

    def close(self) -> str:
        """Return the rest."""
        self._look_for_masks(end="\n")
        clean, _ = self._answer(len(self._seen))
        self._drop(len(self._seen))
        self._returned = 0
        return clean

    @property
    def _newest(self) -> Redactor:
        return self._coming[-1][1] if self._coming else self._redactor

    def _look_for_masks(self, end: str = "") -> None:
        seen = self._seen
        for place, value in masks(seen + end, self._looked):
            self._mask(place, value)
        # The last line may get its end with the next piece.
        self._looked = max(self._looked, seen.rfind("\n") + 1, len(seen) - MASK_LINE)

    def _mask(self, place: int, value: str) -> None:
        if len(self._masks) < MOST and value not in self._masks and MARK not in value:
            self._masks.add(value)
            self._coming.append((place, self._newest.also([value])))

    def _drop(self, size: int) -> None:
        """Drop the beginning of the text (characters)."""
        self._seen, self._returned = self._seen[size:], self._returned - size
        self._looked = max(0, self._looked - size)
        self._coming = deque((place - size, each) for place, each in self._coming)

    def _held(self, pending: int) -> int:
        """Return the length of the end that may belong to a secret that continues after it (characters)."""
        least = _least_held(self._newest)
        hold = least
        while (
            hold < min(pending, _MOST_HIDDEN) and len(shown(self._seen[-hold:])) < least
        ):
            hold *= 2
        return hold

    def _until_known(self, place: int, redactor: Redactor) -> int:
        """Return the end of the text that is needed to know what is secret before a place.

        It is what `_held` holds back, and a private key that begins before the place.
        """
        least = _least_held(redactor)
        size = least
        while (
            size < min(len(self._seen) - place, _MOST_HIDDEN)
            and len(shown(self._seen[place : place + size])) < least
        ):
            size *= 2
        return place + size + LONGEST

    def _answer(self, until: int) -> tuple[str, int]:
        """Return the clean text up to a character, and the start of a secret that continues there (-1: none does)."""
        clean = ""
        while self._coming and self._coming[0][0] < until:
            place, redactor = self._coming.popleft()
            # Each of many masks would search all of the text.
            near = self._seen[: self._until_known(place, self._redactor)]
            before, self._returned, _ = self._clean(place, self._redactor.places(near))
            clean += before
            self._redactor = redactor
        rest, self._returned, last = self._clean(
            until, self._redactor.places(self._seen)
        )
        return clean + rest, last

    def _clean(self, until: int, places: list[Place]) -> tuple[str, int, int]:
        """Return the clean text up to a character, its end, and the start of a secret that continues there (-1: none)."""
        clean: list[str] = []
        returned, last = self._returned, -1
        for start, end in places:
            if start >= until or end < returned:
                continue
            if start >= returned:
                clean += (self._seen[returned:start], MARK)
            # A secret that began before has its mark already; only its rest is new.
            returned, last = end, start
        if returned < until:
            clean.append(self._seen[returned:until])
            returned, last = until, -1
        return "".join(clean), returned, last


def _least_held(redactor: Redactor) -> int:
    """Return the length of visible text that is enough to know a secret (characters)."""
    # A form over several lines is longer than on one line.
    return max(2 * redactor.reach, _SPAN)


def _is_begun_key(text: str) -> bool:
    """Return whether a place is a private key without its last line."""
    visible = shown(text)
    return "-----BEGIN" in visible and "-----END" not in visible
