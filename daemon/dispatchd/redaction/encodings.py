"""The forms in which a secret is looked for: as it is, line by line, and encoded.

A log quotes JSON, a URL has escapes, a header has base64; whoever reads any of these has the secret.
`ENCODINGS` is the promise, word by word in contracts/README.md; what it doesn't name is not looked for.
"""

import base64
import html
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

SHORTEST: Final = 6
"""Shorter values are left alone (characters): they would take ordinary words with them."""

_SHORTEST_PART: Final = 12
"""Parts of a secret, its lines and the strings in its JSON, count from this length on (characters)."""

_DEEPEST: Final = 50
"""How deep the JSON of a secret is looked into (levels)."""


def forms(secret: str) -> frozenset[str]:
    """Return every form of a secret that is looked for, each of `SHORTEST` characters or more."""
    found = {
        form
        for value in values(secret)
        for encode in ENCODINGS.values()
        for form in encode(value)
    }
    return frozenset(form for form in found if len(form) >= SHORTEST)


def values(secret: str) -> frozenset[str]:
    """Return what is secret in a secret: all of it, its lines, and the strings in its JSON."""
    return frozenset(each for each in _values(secret) if len(each) >= SHORTEST)


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
    """Yield data as it stands inside longer data, after any number of bytes.

    Without the characters that its neighbours have a part in.

    Args:
        data: The data.
        encode: Its encoding.
        bits: How many bits a character stands for.
        phases: After how many bytes the encoding begins anew.
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
    {each: f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}
)
"""What Go's encoding/json escapes beside the rest, so that HTML may hold it."""


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
    # As Go, Java and XML write it.
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
    # Bash leaves a tilde and a hash alone where they mean nothing.
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
"""What a value is encoded with, by its name in the contract. Each yields the forms that others would write."""
