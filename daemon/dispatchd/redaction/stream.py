"""Redaction of a text that comes in pieces, such as a log that somebody watches."""

from typing import Final

from attrs import define, field

from dispatchd.redaction.invisible import shown
from dispatchd.redaction.patterns import LONGEST, Place
from dispatchd.redaction.redactor import MARK, Redactor

_SPAN: Final = 16 * 1024
"""Longest part of a credential that is needed to recognize it (characters): a JWT has three long parts."""

_KEY_AND_INDENT: Final = 128
"""Longest distance of a value from the beginning of its key, including the text that marks it as a key (characters)."""

_MOST_HIDDEN: Final = 1024 * 1024
"""Longest invisible text that is waited through (characters)."""


@define
class StreamRedactor:
    """Scrubs a text that comes in pieces as `Redactor.scrub` scrubs the whole, wherever the pieces end.

    It stores the text that it has returned for a while, because a value may continue long after its key. It doesn't store
    all of a value or a private key of more than `LONGEST` characters, nor more than `_MOST_HIDDEN` invisible
    characters. It may return the rest of such a one.
    """

    _redactor: Redactor
    _seen: str = field(default="", init=False)
    _returned: int = field(default=0, init=False)
    _enough: int = field(default=0, init=False)
    """Text that has to be waiting before the next search (characters); more where little of it is visible."""

    def feed(self, piece: str) -> str:
        """Take the next piece. Return the text that is certain by now."""
        self._seen += piece
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
        keep = max(keep, 0)
        self._seen, self._returned = self._seen[keep:], self._returned - keep
        return clean

    def glimpse(self, fresh: int) -> str:
        """Return the whole lines behind the text that was returned that are most likely clean; changes nothing.

        The next `feed` may mask more of them, because what comes then may belong to a secret in them. Text with
        which a known secret may begin is left out, and so is a secret that may continue.

        Args:
            fresh: Length of the end that was written just now, so that a secret in it may be incomplete (characters).
        """
        seen = self._seen
        settled = len(seen) - max(fresh, self._redactor.begins_within(seen))
        until = seen.rfind("\n", self._returned, max(settled, self._returned)) + 1
        if until <= self._returned:
            return ""
        places = self._redactor.places(seen)
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
        clean, _ = self._answer(len(self._seen))
        self._seen, self._returned = "", 0
        return clean

    def _held(self, pending: int) -> int:
        """Return the length of the end that may belong to a secret that continues after it (characters)."""
        # A form over several lines is longer than on one line.
        hold = least = max(2 * self._redactor.reach, _SPAN)
        while (
            hold < min(pending, _MOST_HIDDEN) and len(shown(self._seen[-hold:])) < least
        ):
            hold *= 2
        return hold

    def _answer(self, until: int) -> tuple[str, int]:
        """Return the clean text up to a character, and the start of a secret that continues there (-1: none does)."""
        places = self._redactor.places(self._seen)
        clean, self._returned, last = self._clean(until, places)
        return clean, last

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


def _is_begun_key(text: str) -> bool:
    """Return whether a place is a private key without its last line."""
    visible = shown(text)
    return "-----BEGIN" in visible and "-----END" not in visible
