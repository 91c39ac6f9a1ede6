"""What has the form of a credential, whoever it belongs to.

A net below the known values, for what a command found somewhere else. It is wide where a form is certain (a
token's prefix, a PEM block) and narrow where prose looks alike: after a colon a key has to stand where keys
stand, at the start of a line, in quotes, or as a compound name. Every pattern takes time linear in the text:
no quantifier is nested in another, and each is bounded.
"""

import re
import string
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

Place = tuple[int, int]
"""Where something is in a text: its first character, and the one after its last."""

_CERTAIN: Final = re.compile(
    r"""
    (?<=://)[^\s/?\#'"<>]{1,512}(?=@)                         # URL userinfo (RFC 3986, 3.2.1)
  | (?<=x-access-token:)[^\s@/'"]{1,512}
  | (?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9._-]{20,512}          # GitHub's tokens by their prefixes
  | (?<![A-Za-z0-9])github_pat_[A-Za-z0-9_]{20,512}
  | (?<![\w-])eyJ[\w-]{5,2048}\.eyJ[\w-]{5,8192}\.[\w-]{0,2048}  # JWT (RFC 7519): JSON in base64url
    """,
    re.VERBOSE | re.ASCII,
)

_HEADER: Final = re.compile(
    r"""
    \b(?:proxy-)?authorization["']?\s{0,8}[:=]\s{0,8}["']?
      (?:(?:bearer|basic|token|digest|negotiate)\s{1,8})?
      (?P<authorization>[^\s"',;]{1,4096})
  | \b(?:bearer|basic)\s(?P<scheme>(?=[A-Za-z._~+/=-]{0,512}[0-9])[A-Za-z0-9._~+/=-]{16,4096})
  | ^[\s>*<]{0,8}(?:set-)?cookie:\s{0,8}(?P<cookie>[^\r\n"']{1,4096})
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.MULTILINE,
)

_KEY: Final = re.compile(
    r"""
    (?P<word>password|passwd|passphrase|pwd|secret|token|credentials?|(?<![a-z])auth
      |(?:api|access|private|secret|signing|encryption|session)[_-]?key|session[_-]?id)
    (?P<end>\\?["']\]?|\])?
    (?P<separator>\s{0,3}(?:=>|=(?!=)|:(?![:/]))\s{0,3})
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_CERTAIN_HINTS: Final = ("://", "x-access-token:", "gh", "eyJ")
_HEADER_HINTS: Final = ("authorization", "bearer", "basic", "cookie")
_KEY_HINTS: Final = (
    "pass",
    "pwd",
    "secret",
    "token",
    "credential",
    "auth",
    "key",
    "session",
)
"""Without one of these a pattern finds nothing; looking for them first spares most lines the search."""

_QUOTED: Final = {
    quote: re.compile(rf"(?:[^{quote}\\\r\n]|\\[^\r\n]){{1,4096}}") for quote in "\"'"
}
_ESCAPED: Final = re.compile(r"[^\"'\\\r\n]{1,4096}")
_AFTER_EQUALS: Final = re.compile(r"[^\s\"'&]{1,4096}")
_AFTER_COLON: Final = re.compile(r"[^\s\"',;]{1,4096}")
_PHRASE: Final = re.compile(r"[^\r\n\"']{1,4096}(?<!\s)")

_NO_VALUE: Final = re.compile(
    r"\$\w|\$[{(]|%\w+%|\{\{|<[\w .-]+>|\*{2,}|\.{3}|(?:null|none|nil|true|false|undefined|yes|no)\b",
    re.IGNORECASE | re.ASCII,
)
"""References and fillers: they stand where a secret would, and are none."""

_NAME: Final = frozenset(string.ascii_letters + string.digits + "_.-")
"""What a key is made of."""

_LONGEST_PREFIX: Final = 64
"""How far before its telling word a key begins at most (characters)."""

_LONGEST_INDENT: Final = 24
"""How far before a key its line begins at most (characters)."""

_LINE_START: Final = re.compile(
    r"(?:^|[\r\n{,])[\s>*-]{0,16}(?:(?:export|set|env)\s)?\Z"
)

_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BREAK: Final = r"(?:\s|\\+[nr]){0,8}"
_BODY: Final = re.compile(
    rf"(?:{_BREAK}[A-Za-z0-9+/=]{{20,}}+)*+(?:{_BREAK}[A-Za-z0-9+/=]{{1,76}})?"
)
_BODY_LINE: Final = re.compile(r"[A-Za-z0-9+/=\s]{1,100}")
_LONGEST_BLOCK: Final = 64 * 1024
"""How long a private key can be (characters)."""

_LONGEST_LINE: Final = 101
"""How long a line of it can be, with its end (characters; RFC 7468 has 64)."""


def credentials(text: str) -> Iterator[Place]:
    """Yield where something has the form of a credential, in no order; places may overlap."""
    lowered = text.lower()
    if "-----" in text:
        yield from _pem_blocks(text)
    if any(hint in text for hint in _CERTAIN_HINTS):
        yield from (found.span() for found in _CERTAIN.finditer(text))
    if any(hint in lowered for hint in _HEADER_HINTS):
        for found in _HEADER.finditer(text):
            if found.lastgroup and not _NO_VALUE.match(found[found.lastgroup]):
                yield found.span(found.lastgroup)
    if any(hint in lowered for hint in _KEY_HINTS):
        yield from _values(text)


def _values(text: str) -> Iterator[Place]:
    """Yield where the values of keys are that name credentials."""
    done = 0
    for found in _KEY.finditer(text):
        # What stands in a value is not looked at again: it would take each of many keys through it.
        if found.start() >= done:
            for place in _value_of(text, found):
                done = place[1]
                yield place


def _value_of(text: str, key: re.Match[str]) -> Iterator[Place]:
    """Yield where the value of a key is, if the key is one and the value is one."""
    separator = key["separator"].strip()
    if not _is_a_key(text, key, certain=key["separator"] == "="):
        return
    start = key.end()
    # A quote that JSON in JSON has escaped counts as one.
    escaped = text[start : start + 1] == "\\"
    quote = text[start + escaped : start + escaped + 1]
    if quote in _QUOTED:
        start += escaped + 1
        value = (_ESCAPED if escaped else _QUOTED[quote]).match(text, start)
    elif key["word"].lower().startswith("pass") and separator == ":":
        value = _PHRASE.match(text, start)
    else:
        value = (_AFTER_COLON if separator == ":" else _AFTER_EQUALS).match(text, start)
    if value is not None and not _NO_VALUE.match(text, start):
        yield start, value.end()


def _is_a_key(text: str, key: re.Match[str], *, certain: bool) -> bool:
    if certain or key["end"]:
        return True
    begin, lowest = key.start(), max(0, key.start() - _LONGEST_PREFIX)
    while begin > lowest and text[begin - 1] in _NAME:
        begin -= 1
    prefix = text[begin : key.start()]
    word = key["word"]
    compound = (
        "_" in prefix
        or "-" in prefix.strip("-")
        or "." in prefix.strip(".")
        or prefix.isupper()
        or (prefix[-1:].islower() and word[0].isupper())
        or "_" in word
        or "-" in word
        or word.isupper()
    )
    before = text[max(0, begin - _LONGEST_INDENT) : begin]
    return compound or (not prefix.strip("-") and bool(_LINE_START.search(before)))


def _pem_blocks(text: str) -> Iterator[Place]:
    """Yield the private keys; one without its end up to where its text ends, one without its begin likewise."""
    ends = [found.span() for found in _END.finditer(text)]
    done = 0
    for begin in _BEGIN.finditer(text):
        if begin.start() < done:
            continue
        index = bisect_left(ends, (begin.end(), 0))
        if index < len(ends) and ends[index][1] - begin.start() <= _LONGEST_BLOCK:
            done = ends[index][1]
        else:
            body = _BODY.match(text, begin.end())
            done = body.end() if body else begin.end()
        yield begin.start(), done
    for start, end in ends:
        yield _orphan_start(text, start), end


def _orphan_start(text: str, end: int) -> int:
    """Return where the base64 lines before the end of a block begin."""
    start = end
    while start > 0:
        # Never further than a line can be: else many ends without a line between them would take forever.
        lowest = max(0, start - 1 - _LONGEST_LINE)
        before = text.rfind("\n", lowest, start - 1) + 1 or lowest
        line = text[before:start]
        if (
            len(line) > _LONGEST_LINE
            or not _BODY_LINE.fullmatch(line)
            or not line.strip()
        ):
            return start
        start = before
    return start
