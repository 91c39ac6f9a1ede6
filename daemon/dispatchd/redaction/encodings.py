"""Forms of a secret that are redacted: as it is, line by line, and encoded.

A log quotes JSON, a URL has escapes, a header has base64; a reader of any of these has the secret.
`ENCODINGS` is the promise, word for word in contracts/README.md. Other encodings aren't redacted.
"""

import base64
import html
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

SHORTEST: Final = 6
"""Shortest value that is redacted (characters): shorter ones would redact ordinary words."""

_SHORTEST_PART: Final = 12
"""Shortest part of a secret, a line or a string in its JSON, that is redacted by itself (characters)."""

_DEEPEST: Final = 50
"""Deepest level of a secret's JSON that is read (levels)."""


def forms(parts: Iterable[str]) -> frozenset[str]:
    """Return every form of the parts of a secret that is redacted, each of `SHORTEST` characters or more."""
    encoded = {
        form for part in parts for encode in ENCODINGS.values() for form in encode(part)
    }
    return frozenset(form for form in encoded if len(form) >= SHORTEST)


def values(secret: str) -> frozenset[str]:
    """Return the secret parts of a secret: all of it, its lines, and the strings in its JSON."""
    return frozenset(part for part in _values(secret) if len(part) >= SHORTEST)


def _values(secret: str) -> Iterator[str]:
    stripped = secret.strip()
    lines = [line.strip() for line in secret.splitlines()]
    yield from (secret, stripped)
    if len(lines) > 1:
        # Logs are written line by line, and by some programs with other line ends.
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


def _itself(value: str) -> Iterator[str]:
    yield value


def _base64(value: str) -> Iterator[str]:
    return _sixes(_utf8(value))


def _base64_of_utf16(value: str) -> Iterator[str]:
    return _sixes(value.encode("utf-16-le", "surrogatepass"))


_URL_SAFE: Final = str.maketrans("+/", "-_")


def _sixes(data: bytes) -> Iterator[str]:
    whole = base64.b64encode(data).decode().rstrip("=")
    for text in (whole, *_inside(data, base64.b64encode, bits=6, phases=3)):
        yield text
        yield text.translate(_URL_SAFE)


def _base32(value: str) -> Iterator[str]:
    data = _utf8(value)
    yield base64.b32encode(data).decode().rstrip("=")
    yield from _inside(data, base64.b32encode, bits=5, phases=5)


def _inside(
    data: bytes, encode: Callable[[bytes], bytes], *, bits: int, phases: int
) -> Iterator[str]:
    """Yield the encoding of data inside longer data, after any number of bytes.

    Characters that also encode neighbouring bytes are left out.

    Args:
        data: The data.
        encode: Its encoding.
        bits: Bits in a character (count).
        phases: Bytes after which the encoding starts again (count).
    """
    for before in range(phases):
        shifted = encode(bytes(before) + data).decode()
        first = -(-8 * before // bits)
        yield shifted[first : 8 * (before + len(data)) // bits]


def _hex(value: str) -> Iterator[str]:
    digits = _utf8(value).hex()
    yield digits
    yield digits.upper()


def _url(value: str) -> Iterator[str]:
    data = _utf8(value)
    for escaped in (
        quote(data, safe=""),
        quote(data, safe="/"),
        quote_plus(data),
        quote(data, safe="!*'()/:@$&,;=+~"),
    ):
        yield escaped
        yield _lower_escapes(escaped)


def _lower_escapes(text: str) -> str:
    """Return a URL-quoted text with its escapes in lower case (RFC 3986, 2.1, has both)."""
    first, *parts = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in parts)])


_GO_ESCAPES: Final = str.maketrans(
    {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
)
"""Characters that Go's encoding/json escapes beside the usual ones, so that HTML can embed it."""


def _json(value: str) -> Iterator[str]:
    for ascii_only in (True, False):
        escaped = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        for variant in (
            escaped,
            escaped.replace("/", "\\/"),
            escaped.translate(_GO_ESCAPES),
        ):
            yield variant
            # JSON inside JSON, as where a log line quotes a body.
            yield json.dumps(variant, ensure_ascii=ascii_only)[1:-1]


def _markup(value: str) -> Iterator[str]:
    yield html.escape(value, quote=False)
    escaped = html.escape(value)
    yield escaped
    # The forms of Go, Java and XML.
    yield escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    yield escaped.replace("&#x27;", "&#39;")
    yield escaped.replace("&#x27;", "&apos;")


def _backslashes(value: str) -> Iterator[str]:
    yield repr(value)[1:-1]
    yield ascii(value)[1:-1]
    yield repr(_utf8(value))[2:-1]
    yield value.replace("\\", "\\\\").replace('"', '\\"')


_SPECIAL: Final = re.compile(r"([^\w@%+=:,./-])", re.ASCII)
_SPECIAL_QUOTED: Final = re.compile(r'([$`"\\!])')


def _shell(value: str) -> Iterator[str]:
    quoted = shlex.quote(value)
    if quoted != value:
        yield quoted[1:-1]
    yield value.replace("'", "'\\''")
    yield _SPECIAL_QUOTED.sub(r"\\\1", value)
    # Bash doesn't escape a tilde or a hash where they have no meaning.
    yield _SPECIAL.sub(r"\\\1", value)
    yield re.sub(r"([^\w@%+=:./~#-])", r"\\\1", value, flags=re.ASCII)


def _utf8(value: str) -> bytes:
    return value.encode(errors="surrogatepass")


ENCODINGS: Final[Mapping[str, Callable[[str], Iterator[str]]]] = {
    "as it is": _itself,
    "base64 and base64url of its UTF-8, alone or inside longer data": _base64,
    "base64 and base64url of its UTF-16LE, alone or inside longer data": _base64_of_utf16,
    "base32 of its UTF-8, alone or inside longer data": _base32,
    "hex of its UTF-8, in lower or in upper case": _hex,
    "percent escapes of a URL or a form": _url,
    "escapes of JSON, as Python, JavaScript, PHP and Go write it, and of JSON in JSON": _json,
    "character references of HTML and XML": _markup,
    "backslash escapes of C, Go and Python": _backslashes,
    "quotes of a POSIX shell": _shell,
}
"""Encodings of a value by their name in the contract. Each yields the forms that other programs would write."""
