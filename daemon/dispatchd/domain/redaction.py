"""Take known secrets out of text that leaves the machine."""

from collections.abc import Collection, Iterator
from typing import Final

SHORTEST: Final = 6
"""Shorter values are left alone (characters): they would take ordinary words with them."""

MARK: Final = "[redacted]"


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return a text without any known secret; what several of them cover together becomes one mark."""
    places = sorted(
        place
        # A copy: secrets may be added while another thread writes a line.
        for secret in tuple(secrets)
        if len(secret) >= SHORTEST
        for place in _places(text, secret)
    )
    clean: list[str] = []
    done = 0
    for start, end in places:
        # Replacing one secret after the other would leave the rest of an overlapping one.
        if start >= done:
            clean += (text[done:start], MARK)
        done = max(done, end)
    return "".join((*clean, text[done:]))


def _places(text: str, secret: str) -> Iterator[tuple[int, int]]:
    start = text.find(secret)
    while start >= 0:
        yield start, start + len(secret)
        start = text.find(secret, start + 1)
