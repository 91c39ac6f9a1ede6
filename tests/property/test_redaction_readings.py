"""Whatever is not seen of a text, and however it is cut: the same secrets are found, and nothing else is changed."""

import re
from itertools import pairwise
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.redaction.encodings import ENCODINGS
from dispatchd.redaction.invisible import shown
from dispatchd.redaction.redactor import MARK, Redactor
from dispatchd.redaction.stream import StreamRedactor
from dispatchd.redaction.views import decoded, joined, readings

secrets: Final = st.one_of(
    st.text(
        st.characters(codec="utf-8", categories=["L", "N", "P", "S"]),
        min_size=12,
        max_size=40,
    ),
    st.text("abcAB12+/=-_<>&\\\"'%#~$;ü€", min_size=12, max_size=30),
)
HIDDEN: Final = (
    *(
        "\x1b[31m",
        "\x1b[0m",
        "\x1b[m\x1b[K",
        "\x1b]8;;http://x\x1b\\",
        "\x1b]0;t\x07",
        "\x9b1m",
    ),
    *(
        "\0",
        "\r",
        "\x7f",
        "\x08",
        "\x85",
        "\u200b",
        "\u00ad",
        "\ufeff",
        "\u202e",
        "\u0301",
        "\ufe0f",
    ),
)
hidden: Final = st.lists(st.sampled_from(HIDDEN), max_size=2).map("".join)
folds: Final = st.sampled_from(["\n", "\r\n", "\n  ", "\n\t", "\n        "])
plain_texts: Final = st.text("xyz .,:()\n", max_size=20)


def seen(text: str) -> list[str]:
    """Return what a reader has of a text between its marks: with sequences taken out, or controls alone."""
    parts = text.split(MARK)
    return [
        *(shown(part) for part in parts),
        *(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "", part) for part in parts),
    ]


def is_clean(text: str, form: str) -> None:
    runs = {form[at : at + 6] for at in range(len(form) - 5)}
    for part in seen(text):
        assert not [run for run in runs if run in part], (text, form)


@given(
    secrets,
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(0, 40),
    plain_texts,
    plain_texts,
    st.data(),
)
def test_what_is_not_seen_never_hides_a_form(
    secret: str, encoding: str, which: int, before: str, after: str, data: st.DataObject
) -> None:
    every = [form for form in ENCODINGS[encoding](secret) if len(form) >= 6]
    form = every[which % len(every)]
    between = data.draw(st.lists(hidden, min_size=len(form), max_size=len(form)))
    written = "".join(map("".join, zip(between, form, strict=True)))

    clean = Redactor.of([secret]).scrub(f"{before}|{written}|{after}")

    is_clean(clean, form)
    assert clean.startswith(f"{before}|")
    assert clean.endswith(f"|{after}")


@given(
    secrets,
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(0, 40),
    st.lists(st.integers(1, 60), max_size=5),
    folds,
)
def test_a_form_is_found_over_lines(
    secret: str, encoding: str, which: int, cuts: list[int], fold: str
) -> None:
    every = [form for form in ENCODINGS[encoding](secret) if len(form) >= 12]
    form = every[which % len(every)]
    written, at = "", 0
    for cut in cuts:
        written += form[at : at + cut] + fold
        at += cut

    clean = Redactor.of([secret]).scrub(f"({written}{form[at:]})")

    is_clean(clean.replace(fold, ""), form)
    assert clean.startswith(f"({MARK}")


pieces: Final = st.one_of(
    plain_texts,
    hidden,
    st.sampled_from(
        [
            "token=",
            "password: ",
            "ghp_" + "a" * 30,
            "\\n",
            "\\u0041",
            "%41",
            "&lt;",
            "log: ",
            MARK,
        ]
    ),
    st.integers(1, 3_000).map(lambda count: "a line of a log\n" * count),
    st.integers(1, 2_000).map(lambda count: "\x1b[32mok\x1b[0m a line\r\n" * count),
    st.integers(1, 2_000).map(lambda count: "\x00" * count),
)


@given(
    st.lists(pieces | st.just("SECRET"), max_size=25),
    secrets,
    st.lists(st.integers(0, 60_000), max_size=30),
    st.sampled_from(["", "\x1b[1m"]),
)
def test_a_stream_in_any_pieces_is_the_same_as_the_whole(
    parts: list[str], secret: str, cuts: list[int], colour: str
) -> None:
    written = colour.join(secret)
    text = "".join(written if part == "SECRET" else part for part in parts)
    redactor = Redactor.of([secret])
    stream, told, at = StreamRedactor(redactor), "", 0
    for cut in cuts:
        told += stream.feed(text[at : at + cut])
        at += cut
    told += stream.feed(text[at:]) + stream.close()

    assert told == redactor.scrub(text)


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "\x1b[31m",
                    "\x1b[0m",
                    "\r\n",
                    "\n",
                    "\t",
                    "\0",
                    "\u200b",
                    "é",
                    "✓",
                    "\\",
                    "%",
                    "&",
                ),
                *(
                    "%41",
                    "\\n",
                    "\\u0041",
                    "&lt;",
                    "&#65;",
                    "build ",
                    "x = 1",
                    "log: ",
                    "> ",
                    "'\\''",
                    "\ud800",
                ),
            ]
        ),
        max_size=40,
    )
)
def test_a_text_without_secrets_is_unchanged(parts: list[str]) -> None:
    text = "".join(parts)

    assert Redactor.of(["never-in-these-parts", "hunter2-hunter2"]).scrub(text) == text


@given(st.text(st.sampled_from("ab\x1b[m0\r\0\u200b\\un%41&lt;#\n\té'\""), max_size=60))
@example("\x1b[0ma%41")
def test_each_character_of_a_view_comes_from_where_it_says(
    text: str,
) -> None:
    read = readings(text)
    for view in read.views:
        for each in (view, joined(view)):
            for at, letter in enumerate(each.text):
                start, end = each.origin((at, at + 1))
                assert text[start:end] == letter
    for view in decoded(read.seen):
        ends = [view.origin((at, at + 1)) for at in range(len(view.text))]
        assert all(start < end for start, end in ends)
        assert all(before[1] <= after[0] for before, after in pairwise(ends))
