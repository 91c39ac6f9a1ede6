"""The forms in which a secret can stand in a text: as it is, line by line, and encoded.

A log quotes JSON, a URL has escapes, a header has base64; whoever reads any of these has the secret.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

SHORTEST: Final = 6
"""Shorter values are left alone (characters): they would take ordinary words with them."""

_SHORTEST_PART: Final = 12
"""Parts of a secret, its lines and the strings in its JSON, count from this length on (characters)."""

_DEEPEST: Final = 50
"""How deep the JSON of a secret is looked into (levels)."""

_SKIPPED: Final = (0, 2, 3)
"""Characters of base64 that also depend on the 0, 1 or 2 bytes before the secret."""


def forms(secret: str) -> frozenset[str]:
    """Return every form of a secret that is looked for, each of `SHORTEST` characters or more."""
    found = {
        form
        for value in _values(secret)
        if len(value) >= SHORTEST
        for form in _encoded(value)
    }
    return frozenset(form for form in found if len(form) >= SHORTEST)


def _values(secret: str) -> Iterator[str]:
    stripped = secret.strip()
    lines = [line.strip() for line in secret.splitlines()]
    yield from (secret, stripped)
    if len(lines) > 1:
        # Logs are written line by line, and by some with other line ends.
        yield "\r\n".join(secret.splitlines())
        yield from (line for line in lines if len(line) >= _SHORTEST_PART)
    if stripped[:1] in ("{", "["):
        yield from (leaf for leaf in _leaves(stripped) if len(leaf) >= _SHORTEST_PART)


def _leaves(text: str) -> Iterator[str]:
    try:
        level: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = inner


def _encoded(value: str) -> Iterator[str]:
    yield value
    data = value.encode(errors="surrogatepass")
    yield from _base64(data)
    for escaped in (
        quote(data, safe=""),
        quote(data, safe="/"),
        quote_plus(data),
        quote(data, safe="!*'()/:@$&,;=+~"),
    ):
        yield escaped
        yield _lower_escapes(escaped)
    for ascii_only in (True, False):
        escaped = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")
        # JSON inside JSON, as where a log line quotes a body.
        yield json.dumps(escaped, ensure_ascii=ascii_only)[1:-1]
    yield repr(value)[1:-1]


def _base64(data: bytes) -> Iterator[str]:
    whole = base64.b64encode(data).decode()
    yield whole.rstrip("=")
    yield whole.rstrip("=").translate(_URL_SAFE)
    for before, skipped in enumerate(_SKIPPED):
        # As it stands inside a longer text: without the characters that its neighbours have a part in.
        shifted = base64.b64encode(b"\0" * before + data).decode()
        certain = shifted[skipped : (before + len(data)) * 8 // 6]
        yield certain
        yield certain.translate(_URL_SAFE)


_URL_SAFE: Final = str.maketrans("+/", "-_")


def _lower_escapes(text: str) -> str:
    """Return a URL-quoted text with its escapes in lower case (RFC 3986, 2.1, has both)."""
    first, *parts = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in parts)])
