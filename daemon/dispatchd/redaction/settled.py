"""Second searches that can find nothing: where the marks of the first one change nothing but their own places.

A mark can bring a key and a value together, or show what a sequence hid. Most marks stand in a plain line of a text
without any word of a credential, and to search all of the text again takes as long as the first search.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice
from typing import Final

from dispatchd.redaction.invisible import hidden
from dispatchd.redaction.patterns import Place, Text, begins_credential, found
from dispatchd.redaction.views import SIGNS, View, end_of_prefix

_LONGEST_LINE: Final = 4096
"""Longest part of a line that is looked at on either side of a place (characters)."""

_MOST_HINTS: Final = 100
"""Most places of one hint that are looked at (count)."""


def is_settled(
    text: str, places: list[Place], mark: str, searched: Iterable[tuple[View, Text]]
) -> bool:
    """Return whether a text with marks certainly has no other places of secrets; False if that isn't known.

    No known secret may have a form that a mark is a part of, or begins or ends.

    Args:
        text: The text.
        places: Places of secrets in it, in order.
        mark: Text that stands in the place of each.
        searched: Views that were searched for credentials.
    """
    if mark in text:
        return False
    if not all(_hints_are_inside(view, each, places) for view, each in searched):
        return False
    done = 0
    for place in places:
        end = _end_of_plain_line(text, place, mark)
        # Each of two places in a line may be in the prefix of the other.
        if end < 0 or place[0] < done:
            return False
        done = end
    return True


def _end_of_plain_line(text: str, place: Place, mark: str) -> int:
    """Return the end of the line of a place if the line reads the same with a mark; -1 if it may not."""
    start, end = place
    first = text.rfind("\n", max(0, start - _LONGEST_LINE), start) + 1
    if not first and start > _LONGEST_LINE:
        return -1
    last = text.find("\n", start, end + _LONGEST_LINE)
    if last < 0 and len(text) <= end + _LONGEST_LINE:
        last = len(text)
    if last < end:
        return -1
    line = text[first:last]
    if hidden(line) is not None or any(sign in line for sign in SIGNS):
        return -1
    marked = f"{text[first:start]}{mark}{text[end:last]}"
    prefix = end_of_prefix(line)
    if prefix > start - first or prefix != end_of_prefix(marked):
        return -1
    return last


def _hints_are_inside(view: View, searched: Text, places: list[Place]) -> bool:
    """Return whether every hint at a credential that a view has is inside of a place."""
    starts = [start for start, _ in places]
    for hint in searched.hints:
        every = list(islice(found(searched.lowered, hint), _MOST_HINTS + 1))
        if len(every) > _MOST_HINTS:
            return False
        for at in every:
            if not begins_credential(searched.lowered, hint, at):
                continue
            start, end = view.origin((at, at + len(hint)))
            index = bisect_right(starts, start) - 1
            if index < 0 or places[index][1] < end:
                return False
    return True
