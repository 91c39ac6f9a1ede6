"""Take known secrets out of text that leaves the machine."""

from collections.abc import Collection
from typing import Final

SHORTEST: Final = 6
"""Shorter values are left alone (characters): they would take ordinary words with them."""

MARK: Final = "[redacted]"


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return a text without any known secret, the longest replaced first."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, MARK)
    return text
