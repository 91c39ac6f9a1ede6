"""Patterns of credentials, for secrets that aren't known.

They are a net below the known values, for credentials that a command found somewhere else. The net is wide where a
form is certain (a token's prefix, a PEM block) and narrow where prose looks alike: before a colon only a name
at the usual place of a key counts, at the start of a line, in quotes, or as a compound name. Every pattern takes
time linear in the text: a quantifier without a bound never backtracks, or ends where the next search begins.
"""

import re
import string
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, Self

from attrs import frozen

Place = tuple[int, int]
"""Place in a text: its first character, and the one after its last."""

LONGEST: Final = 64 * 1024
"""Longest private key (characters); the rest of a longer one isn't redacted."""


def _edge(prefix: int = 0, name: str = "A-Za-z0-9") -> str:
    """Return the pattern of a place that is `prefix` characters behind the beginning of a name.

    A name begins where no character of a name precedes it, except the end of an escape. The search goes for the
    prefix and looks back from behind it, which is many times quicker.
    """
    over = f".{{{prefix}}}"
    escapes = (r"\\[nrt]", "%[0-9A-Fa-f]{2}", r"\\u[0-9A-Fa-f]{4}")
    ends = "|".join(f"(?<={escape}{over})" for escape in escapes)
    return f"(?:(?<![{name}]{over})|{ends})"


_CERTAIN: Final = tuple(
    (needed, hint, re.compile(pattern, re.VERBOSE | re.ASCII | re.DOTALL))
    for needed, hint, pattern in (
        (
            "://",
            "://",
            r"""://(?P<value>[^\s/?\#'"<>]+)@""",
        ),  # URL userinfo (RFC 3986, 3.2.1)
        (":\\/\\/", ":\\/\\/", r""":\\/\\/(?P<value>[^\s/?\#'"<>]+)@"""),
        ("token", "x-access-token:", r"""x-access-token:(?P<value>[^\s@/'"]++)"""),
        # GitHub's tokens by their prefixes
        ("gh", "gh", rf"(?P<value>gh[pousr]_{_edge(4)}[A-Za-z0-9._-]{{20,}}+)"),
        (
            "github_pat_",
            "github_pat_",
            rf"(?P<value>github_pat_{_edge(11)}[A-Za-z0-9_]{{20,}}+)",
        ),
        # JWT (RFC 7519): JSON in base64url
        (
            "eyj",
            "eyJ",
            rf"(?P<value>eyJ{_edge(3, 'A-Za-z0-9_-')}[\w-]{{5,}}+\.eyJ[\w-]{{5,}}+\.[\w-]*+)",
        ),
    )
)
"""Patterns with one of `HINTS` and a part of their own each: a pattern is only searched in a text that has both."""

_QUOTES: Final = r"\\{0,3}[\"']"
"""Forms of a quote, including those of JSON in JSON."""

_HEADER: Final = re.compile(
    rf"""
    authorization(?:{_QUOTES})?\s{{0,8}}[:=]\s{{0,8}}
      (?:\[(?!redacted\]))?(?:{_QUOTES})?                    # Go and Python print lists of values
      (?:
        (?:digest|aws4-hmac-sha256)\s{{1,8}}(?P<several>[^\r\n]++)
      | (?:(?:bearer|basic|token|negotiate|[a-z][\w-]{{0,30}}(?=\s{{1,8}}[^\s\d]{{0,256}}\d))\s{{1,8}})?
        (?P<authorization>[^\s"',;\\\]]++)
      )
  | {_edge()}(?:bearer|basic)\s(?P<scheme>(?=[a-z._~+/=-]{{0,512}}[0-9])[a-z0-9._~+/=-]{{16,}}+)
  | (?:^[\s>*<]{{0,8}}|["']|\\[nr])(?:set-)?cookie(?:{_QUOTES})?:\s{{0,8}}+(?:{_QUOTES})?+
      (?P<cookie>[^\r\n"'\\{{\[]++)
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.MULTILINE,
)

_KEY: Final = re.compile(
    r"""
    (?P<word>password|passwd|passphrase|pwd|secret|token|credentials?|(?<![a-z])auth|(?-i:(?<=_)PASS)
      |(?:api|access|private|secret|signing|encryption|session)[_-]?key
      |(?:session|auth)[_-]?(?:id|cookie)|sessid)
    (?P<end>\\{0,3}["']\]?|\])?
    (?P<separator>\s{0,3}(?:=>|=(?!=)|:(?![:/]))\s{0,3})
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
"""The word of a key that names a credential, and what separates it from the value."""

_HEADER_HINTS: Final = (
    ("auth", "authorization"),
    ("bearer", "bearer"),
    ("basic", "basic"),
    ("cookie", "cookie"),
)
"""Pairs of one of `HINTS`, and what it is a part of."""
_KEY_HINTS: Final = ("pass", "pwd", "secret", "token", "credential", "auth", "sess")
"""Beginnings of the words of a key, but for those that end with `key`."""

_KINDS_OF_KEY: Final = (
    *("api", "access", "private", "secret", "signing", "encryption", "session"),
)
"""Beginnings of the words that end with `key`."""

HINTS: Final = (
    *("pass", "pwd", "secret", "token", "credential", "auth", "sess", "key"),
    *(
        "bearer",
        "basic",
        "cookie",
        "://",
        ":\\/\\/",
        "gh",
        "github_pat_",
        "eyj",
        "-----",
    ),
)
"""Parts of every credential in lower case: a text with none of them has none. A mark has none of their characters
at its ends, and none of them inside."""

_OPENING: Final = re.compile(r"(?P<escape>\\{0,3})(?P<quote>[\"'])")

# Possessive, so that text without a value costs no backtracking.
_QUOTED: Final = {
    quote: re.compile(rf"(?:[^{quote}\\\r\n]|\\[^\r\n])++") for quote in "\"'"
}
_ESCAPED: Final = re.compile(r"[^\"'\\\r\n]++")
_AFTER_EQUALS: Final = re.compile(r"[^\s\"'&]++")
_AFTER_COLON: Final = re.compile(r"[^\s\"',;]++")
_PHRASE: Final = re.compile(r"[^\r\n\"']+(?<!\s)")

_NO_VALUE: Final = re.compile(
    r"""
    \$[{(] | \{\{
  | (?:\$\w{1,128} | %\w{1,128}% | <[\w .-]{1,128}> | \*{2,128} | \.{3} | [|>][+-]?
      | null | none | nil | true | false | undefined | yes | no)
    (?=[\s"'&,;)}\]\\] | \Z)
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
"""References and fillers in place of a secret. A text that only begins like one is a value."""

_FOLDER: Final = re.compile(
    rf"""
    {_edge(0, "A-Za-z0-9_.-")}
    (?: OLDPWD | PWD(?=(?:{_QUOTES})?\s?[=:]\s?(?:{_QUOTES})?(?:[/~]|[A-Za-z]:[\\/]|\s|\Z)) )
    """,
    re.VERBOSE,
)
"""Variables in which a shell has its folders. `PWD` is a password too where no path follows, as in ODBC."""

_NAME: Final = frozenset(string.ascii_letters + string.digits + "_.-")
"""Characters of a key."""

_ESCAPED_ENDS: Final = frozenset({"\\n", "\\r", "\\t"})
"""Line ends and tabs inside JSON; the letter of such an escape is no part of the key after it."""

_LONGEST_PREFIX: Final = 64
"""Longest part of a key before the word that marks it (characters)."""

_LONGEST_INDENT: Final = 24
"""Longest indentation of a key in its line (characters)."""

_LINE_START: Final = re.compile(
    r"(?:^|[\r\n{,]|\\[nr])[\s>*-]{0,16}(?:(?:export|set|env)\s)?\Z"
)

_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BREAK: Final = r"(?:\s|\\+[nr]){0,8}"
_BODY: Final = re.compile(
    rf"(?:{_BREAK}(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): [^\r\n\\]{{0,200}}){{0,8}}"
    rf"(?:{_BREAK}[A-Za-z0-9+/=]{{20,}}+)*+(?:{_BREAK}[A-Za-z0-9+/=]{{1,76}})?"
)
_BODY_BACKWARDS: Final = re.compile(
    r"""
    (?:[ \t]{0,16}+ (?:\n\r?|n\\{1,4}(?:r\\{1,4})?) [ \t]{0,16}+      # indent, line end, from its last character
       (?:(?![nr]\\)[A-Za-z0-9+/=]){1,8192}+)*+
    """,
    re.VERBOSE,
)


@frozen
class Text:
    """A text that is searched for credentials."""

    text: str
    lowered: str
    """The text in lower case, each character in its place; any other character stands for one beyond ASCII."""
    hints: frozenset[str]
    """Hints in it."""

    @classmethod
    def of(cls, text: str, hints: Iterable[str] = HINTS) -> Self:
        """Return a text that may have some hints, and no others."""
        lowered = _lowered(text)
        return cls(text, lowered, frozenset(each for each in hints if each in lowered))


def credentials(searched: Text) -> Iterator[Place]:
    """Yield the places in the form of a credential, in no order; they may overlap."""
    if not searched.hints:
        return
    text, lowered, hints = searched.text, searched.lowered, searched.hints
    if "-----" in hints:
        yield from _pem_blocks(text)
    for needed, hint, pattern in _CERTAIN:
        if needed in hints and hint in text:
            yield from (match.span("value") for match in pattern.finditer(text))
    if any(
        needed in hints and (hint == needed or hint in lowered)
        for needed, hint in _HEADER_HINTS
    ):
        for match in _HEADER.finditer(text):
            if match.lastgroup and not _NO_VALUE.match(match[match.lastgroup]):
                yield match.span(match.lastgroup)
    yield from _values(searched)


def begins_credential(lowered: str, hint: str, at: int) -> bool:
    """Return whether what follows a hint allows a credential: the shortest of the hints is a part of many words."""
    return hint != "gh" or lowered.startswith("_", at + 3)


def _lowered(text: str) -> str:
    """Return a text in lower case, each character in its place. A mark stands for each character beyond ASCII."""
    if text.isascii():
        return text.lower()
    # What is searched in it is ASCII; other characters take many times as long.
    return str(text.encode("ascii", "replace").lower(), "ascii")


def _values(searched: Text) -> Iterator[Place]:
    """Yield the places of the values of keys that name credentials."""
    text, done = searched.text, 0
    for key in _keys(searched):
        # The inside of a value isn't searched again: otherwise each of many keys would be searched through it.
        if key.start() >= done:
            for place in _value_of(text, key):
                done = place[1]
                yield place


def _keys(searched: Text) -> Iterator[re.Match[str]]:
    """Yield the matches of the pattern of a key, in order: it is tried where a word of it begins, and nowhere else."""
    done = 0
    for at in sorted(_starts_of_words(searched)):
        if at >= done and (key := _KEY.match(searched.text, at)):
            done = key.end()
            yield key


def _starts_of_words(searched: Text) -> Iterator[int]:
    lowered, hints = searched.lowered, searched.hints
    for hint in hints.intersection(_KEY_HINTS):
        yield from found(lowered, hint)
    if "key" not in hints:
        return
    for at in found(lowered, "key"):
        end = at - lowered.startswith(("_", "-"), max(0, at - 1), at)
        for kind in _KINDS_OF_KEY:
            if lowered.endswith(kind, 0, end):
                yield end - len(kind)


def found(text: str, part: str) -> Iterator[int]:
    """Yield each place where a part begins, in order."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _value_of(text: str, key: re.Match[str]) -> Iterator[Place]:
    """Yield the place of a key's value, if the key is one and the value is one."""
    separator = key["separator"].strip()
    if key["word"] == "PWD" and _is_a_folder(text, key.start()):
        return
    if not _is_a_key(text, key, certain=key["separator"] == "="):
        return
    start = key.end()
    # A quote that JSON in JSON has escaped counts as a quote.
    quote = _OPENING.match(text, start)
    if quote is not None:
        start = quote.end()
    # Before the value is read: otherwise many keys before one long reference would each read it.
    if _NO_VALUE.match(text, start):
        return
    if quote is not None:
        kind = _ESCAPED if quote["escape"] else _QUOTED[quote["quote"]]
    elif key["word"].lower().startswith("pass") and separator == ":":
        kind = _PHRASE
    else:
        kind = _AFTER_COLON if separator == ":" else _AFTER_EQUALS
    value = kind.match(text, start)
    if value is not None:
        yield start, value.end()


def _is_a_folder(text: str, start: int) -> bool:
    """Return whether a key's word `PWD` belongs to one of the two names of folders."""
    return any(
        _FOLDER.match(text, max(0, start - before)) for before in (0, len("OLD"))
    )


def _is_a_key(text: str, key: re.Match[str], *, certain: bool) -> bool:
    if certain or key["end"]:
        return True
    begin, lowest = key.start(), max(0, key.start() - _LONGEST_PREFIX)
    while begin > lowest and text[begin - 1] in _NAME:
        begin -= 1
    if text[begin - 1 : begin + 1] in _ESCAPED_ENDS and begin < key.start():
        begin += 1
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
    """Yield the private keys. One without its end reaches to the end of its text, one without its begin likewise."""
    ends = [match.span() for match in _END.finditer(text)]
    done = 0
    for begin in _BEGIN.finditer(text):
        if begin.start() < done:
            continue
        index = bisect_left(ends, (begin.end(), 0))
        if index < len(ends) and ends[index][1] - begin.start() <= LONGEST:
            done = ends[index][1]
        else:
            body = _BODY.match(text, begin.end())
            done = body.end() if body else begin.end()
        yield begin.start(), done
    before = 0
    for start, end in ends:
        # Only the text since the end before: otherwise many ends would read the same lines.
        lowest = max(before, start - LONGEST)
        body = _BODY_BACKWARDS.match(text[lowest:start][::-1])
        yield start - (body.end() if body else 0), end
        before = end
