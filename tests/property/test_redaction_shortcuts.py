"""Each shortcut of the redactor finds what the plain search finds: many forms at once, hints, sequences, marks."""

from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.redaction.invisible import hidden
from dispatchd.redaction.occurrences import SHORT, Forms
from dispatchd.redaction.patterns import HINTS, Text, credentials
from dispatchd.redaction.redactor import Redactor, SecretForms
from dispatchd.redaction.views import View, joined, joined_without_prefixes, readings

SECRETS: Final = (
    "hunter2-of-the-secret",
    "mmmmm-begins-as-a-colour-ends",
    "ends-as-a-colour-begins-[3",
    "has-[31m-of-a-colour",
    "31m;in-a-long-colour",
    "käse-mit-€-und-löchern",
)

WHOLE_CREDENTIALS: Final = (
    *("https://user:pw-of-it@host/", ":\\/\\/user:pw-of-it@host"),
    *("x-access-token:abcdef", "ghp_" + "a1" * 12, "github_pat_" + "b" * 24),
    *("eyJhbGciOiJ.eyJzdWIiOiI.c2ln", "authorization: Bearer abc"),
    *("bearer abcdefghij0123456789", "Basic abcdefghij0123456789", "\ncookie: a=b"),
    *("token=abc", "PASSWORD: x y", '"api_key": "abc"', "session-id=1", "pwd=abc"),
    *("-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBgkqhkiG9w\n", "_PASS=x"),
    *("-----END PRIVATE KEY-----", "credentials=abc", "sessid=a", "passphrase=abc"),
    *("secret=abc", "passwd=abc", "auth=abc", "encryption_key=abc", "authid=abc"),
)
CREDENTIALS: Final = (
    *WHOLE_CREDENTIALS,
    *("@", "gh", "Author", "key", "secret", "="),
)

PARTS: Final = (
    *("\x1b[31m", "\x1b[0m", "\x1b[K", "\x1b[2K", "\x1b", "\x1b[", "\x1b]0;t\x07"),
    *("\x1b]open", "\x1b[Key=", "\x1b[3\r1m", "\x1btoken=", "\x9b1m", "\x9d", "\x90"),
    *("\r", "\n", "\r\n", "\0", "\u200b", "\u0301", "\ud800", "\udcff", "€", "İ", "K"),
    *("\n  ", "\n         ", "\t", "\\\n", "\\", "%41", "&lt;", "'", "[redacted]"),
    *("- ", "> ", "[x] ", "[", "]", "12:00:01 ", "INFO ", "web_1  | ", "000012 "),
    *("log: ", "Nov  3 10:00:00 host prog[1]: ", "a line of a build\n", "word"),
)

LINES: Final = "a line of a build\n" * (SHORT // 10)
"""Enough for shortcuts that short texts don't take."""


def texts(*more: str) -> st.SearchStrategy[str]:
    """Return texts of such parts, of the others, and of single letters."""
    parts = st.sampled_from([*PARTS, *more]) | st.characters(codec="utf-8")
    return st.lists(parts, max_size=30).map("".join)


def plain_places(text: str, form: str) -> set[int]:
    """Return each character that is a part of a form."""
    return {
        at + offset
        for at in range(len(text))
        if text.startswith(form, at)
        for offset in range(len(form))
    }


@example(["a" * 7, "b" * 15, "€" * 6], "xxaaaaaaaayybbbbbbbbbbbbbbbb€€€€€€€€")
@given(
    st.lists(st.text("ab€\ud800", min_size=6, max_size=20), min_size=1, max_size=9),
    st.text("ab€\ud800", max_size=60),
)
def test_many_forms_are_found_at_once_as_one_after_the_other(
    forms: list[str], text: str
) -> None:
    others = {
        f"{'never' * size}{number}" for size in (1, 4) for number in range(10, 90)
    }
    text = f"{text}|{forms[0]}|{text}{'|' * SHORT}"

    found = {
        at
        for start, end in Forms().also({*forms, *others}).places(text)
        for at in range(start, end)
    }

    assert found == set().union(*(plain_places(text, form) for form in forms))


@pytest.mark.parametrize("text", WHOLE_CREDENTIALS)
def test_each_credential_has_its_hint(text: str) -> None:
    assert [*credentials(Text.of(text))]


@given(texts(*CREDENTIALS))
def test_no_credential_is_without_a_hint(text: str) -> None:
    searched = Text.of(text)
    everything = Text(text, searched.lowered, frozenset(HINTS))

    assert len(searched.lowered) == len(text)
    assert [*credentials(searched)] == [*credentials(everything)]


@given(texts())
def test_sequences_are_removed_before_other_characters_as_with_them(text: str) -> None:
    read, there = readings(text), hidden(text)
    if there is None:
        assert read.views == [read.written]
        return
    patterns = there.patterns

    assert read.seen.text == patterns.sequences.sub("", text)
    assert [each.text for each in read.views] == [
        *dict.fromkeys(
            [
                read.seen.text,
                text,
                patterns.colours.sub("", text),
                patterns.characters.sub("", text),
            ]
        )
    ]


@given(texts())
def test_prefixes_are_the_same_beside_a_tab(text: str) -> None:
    text = text.replace("\t", "").replace("\\\n", "\n") + "\nx"
    quick, slow = (joined_without_prefixes(View(each)) for each in (text, text + "\t"))

    assert quick is not None
    assert slow is not None
    assert quick.text == slow.text
    places = range(len(quick.text))
    assert [quick.origin((at, at + 1)) for at in places] == [
        slow.origin((at, at + 1)) for at in places
    ]


@example("\x1b[31m" + SECRETS[1][1:], SECRETS[1])
@example(SECRETS[2].replace("[3", "\x1b[31m"), SECRETS[2])
@example(SECRETS[3].replace("[", "\x1b["), SECRETS[3])
@given(texts(*SECRETS), st.sampled_from(SECRETS))
def test_every_reading_is_searched_though_colours_are_known(
    text: str, secret: str
) -> None:
    text = LINES + text
    places = Redactor.of([secret]).places(text)
    forms = SecretForms.of(secret)

    for reading in readings(text).views:
        view = joined(reading)
        for form in forms.in_joined:
            for at in plain_places(view.text, form):
                start, end = view.origin((at, at + 1))
                assert any(first <= start and end <= last for first, last in places)


@example(f"käse-mit-€-\n[w {SECRETS[5]} und-löchern\n", SECRETS[5])
@example(f"{SECRETS[1]}auth=value-of-it\n", SECRETS[1])
@example(f"token: {SECRETS[0]}\n", SECRETS[0])
@given(texts(*SECRETS, *CREDENTIALS), st.sampled_from([*SECRETS, "] as marks end"]))
def test_nothing_is_left_for_a_second_search(text: str, secret: str) -> None:
    redactor = Redactor.of([secret])

    once = redactor.scrub(LINES + text)

    assert redactor.scrub(once) == once
