"""No known secret survives in any encoding, ordinary text is left alone, and a second time changes nothing."""

import base64
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, quote_plus

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.redaction import patterns
from dispatchd.redaction.redactor import (
    MARK,
    Redactor,
    reported_tail,
)
from dispatchd.redaction.stream import StreamRedactor
from dispatchd.redaction.views import joined, readings

LETTERS = st.characters(codec="utf-8")
secrets = st.one_of(
    st.text(LETTERS, min_size=6, max_size=40),
    st.text("abcAB12+/=-_ \n\\\"'%", min_size=6, max_size=30),
    st.text("ab", min_size=6, max_size=12),
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
around = st.binary(max_size=7)

ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda secret: secret,
    "JSON": lambda secret: json.dumps({"x": secret}),
    "JSON, not ASCII": lambda secret: json.dumps({"x": secret}, ensure_ascii=False),
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret)),
    "URL": lambda secret: f"?q={quote(secret)}",
    "URL path": lambda secret: quote(secret, safe=""),
    "form": quote_plus,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "base64url, bare": lambda secret: (
        base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    ),
}


def shown(secret: str) -> list[str]:
    """Return what must not be seen of a secret: each form as others would write it."""
    data = secret.encode()
    plain = base64.b64encode(data).decode().rstrip("=")
    return [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        plain,
        plain.replace("+", "-").replace("/", "_"),
    ]


def is_clean(text: str, secret: str) -> None:
    # Marks are ours: a secret such as `redact` is a part of them.
    for part in text.split(MARK):
        for form in shown(secret):
            assert form not in part, (text, form)


@given(texts, secrets, st.sampled_from(sorted(ENCODINGS)), texts)
def test_no_secret_survives_in_any_encoding(
    before: str, secret: str, encoding: str, after: str
) -> None:
    text = before + ENCODINGS[encoding](secret) + after

    is_clean(Redactor.of([secret]).scrub(text), secret)


@given(around, secrets, around)
def test_no_secret_survives_inside_a_longer_base64(
    before: bytes, secret: str, after: bytes
) -> None:
    encoded = base64.b64encode(before + secret.encode() + after).decode()

    clean = Redactor.of([secret]).scrub(encoded)

    # What is left of it are the ends that its neighbours have a part in: less than a byte and a half each.
    left = len(clean.replace(MARK, "")) * 6 / 8
    assert left <= len(before) + len(after) + 5


@given(texts, st.lists(secrets, min_size=1, max_size=4), texts)
def test_secrets_that_overlap_leave_nothing_of_each_other(
    before: str, several: list[str], after: str
) -> None:
    joined = several[0]
    for each in several[1:]:
        # As close as they fit: the longest end of one that is the beginning of the next.
        shared = next(
            size
            for size in range(min(len(joined), len(each)), -1, -1)
            if joined.endswith(each[:size])
        )
        joined += each[shared:]

    clean = Redactor.of(several).scrub(before + joined + after)

    for secret in several:
        is_clean(clean, secret)


@given(
    texts | st.text("abPASSWORDtokenghp_://@=: \n\"'.-[redact]", max_size=80), secrets
)
@example("token=abcdef token: [redacted] token: abc", "abcdef")
@example("a[redacted]b", "redacted")
@example("xredactedx", "dacted")
def test_a_second_time_changes_nothing(text: str, secret: str) -> None:
    redactor = Redactor.of([secret])

    once = redactor.scrub(text)

    assert redactor.scrub(once) == once


WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "build",
    "passed",
    "12",
    "tests",
    "in",
    "3.5",
    "s",
    "commit",
    "author",
    "merge",
    "branch",
    "main",
    "origin",
    "push",
    "pull",
    "request",
    "token",
    "secret",
    "password",
    "key",
    "value",
    "error",
    "warning",
    "note:",
    "see",
    "https://example.com/docs#top",
    "at",
    "10:30",
    "Author:",
    "Jane",
    "<jane@example.com>",
    "def",
    "f(x):",
    "return",
    "x",
    "+",
    "1",
    "if",
    "(a",
    "==",
    "b)",
    "{",
    "c;",
    "}",
]


@given(st.lists(st.sampled_from(WORDS), max_size=30), secrets)
def test_ordinary_text_is_left_alone(words: list[str], secret: str) -> None:
    text = " ".join(words)
    if any(form in text for form in shown(secret)):
        return

    assert Redactor.of([secret]).scrub("> " + text) == "> " + text


@given(
    st.lists(texts | secrets, max_size=12),
    secrets,
    st.lists(st.integers(0, 200), max_size=12),
    st.integers(0, 40_000),
)
def test_no_cut_of_a_stream_lets_a_secret_through(
    parts: list[str], secret: str, cuts: list[int], noise: int
) -> None:
    text = secret.join([*parts, secret * (noise // 20), "x" * noise, "y" * noise])
    redactor = Redactor.of([secret])
    stream, told, at = StreamRedactor(redactor), "", 0
    for cut in cuts:
        told += stream.feed(text[at : at + cut])
        at += cut
    told += stream.feed(text[at:]) + stream.close()

    is_clean(told, secret)


@given(texts, secrets, st.integers(0, 50), texts)
def test_a_tail_never_begins_with_the_rest_of_a_secret(
    before: str, secret: str, cut: int, after: str
) -> None:
    whole = before + secret + after
    start = min(cut, len(whole))

    told = reported_tail(whole[start:], Redactor.of([secret]), cut_before=start)

    is_clean(told, secret)
    rest = secret[max(0, start - len(before)) :]
    if before and len(rest) >= 6 and start:
        assert rest not in told.split("\n", 1)[-1].split(MARK)


@given(st.text(max_size=5))
def test_values_under_6_characters_are_not_scrubbed(value: str) -> None:
    text = f"x {value} y"

    assert Redactor.of([value]).scrub(text) == Redactor.of([]).scrub(text)


KEY_PARTS: Final = st.sampled_from(
    [
        *(
            "password",
            "passwd",
            "passphrase",
            "pwd",
            "PWD",
            "OLDPWD",
            "secret",
            "TOKEN",
        ),
        *(
            "credentials",
            "auth",
            "_PASS",
            "encryption-key",
            "api_key",
            "session_cookie",
        ),
        *("sessid", "authid", "private", "key", "Key", "sess", "İ", "\u212a", "\u017f"),
        *(
            ":",
            "=",
            "=>",
            "==",
            "://",
            " ",
            "  ",
            "\n",
            "\\",
            '"',
            "'",
            "]",
            '\\\\\\"]',
        ),
        *("x" * 30, "y" * 70, "[redacted]", "hunter2"),
    ]
)


@given(st.lists(KEY_PARTS, max_size=60).map("".join))
def test_keys_are_found_around_their_hints_as_in_the_whole_text(text: str) -> None:
    found = [match.span() for match in patterns._keys(patterns.Text.of(text))]  # noqa: SLF001  # against the slow way

    assert found == [match.span() for match in patterns._KEY.finditer(text)]  # noqa: SLF001  # likewise


@given(st.text("ab\n\t \x1b[31m;", max_size=80))
def test_each_character_of_a_view_is_one_of_the_text_in_its_order(text: str) -> None:
    read = readings(text)
    for view in (read.seen, *read.others, joined(read.seen)):
        places = [view.origin((at, at + 1)) for at in range(len(view.text))]

        assert [text[start:end] for start, end in places] == [*view.text]
        assert places == sorted(set(places))
