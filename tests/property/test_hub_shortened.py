"""Strings that are cut while they come in: nothing else changes, however the text is written and cut into pieces."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.hub.domain.json_shortener import Shortener

CHARACTERS = st.text(
    st.sampled_from('ab"\\\n/ué\u202e\U0001f600\x00')
    | st.characters(exclude_categories=["Cs"])
)
WRITTEN = st.sampled_from(["ascii", "utf-8"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | CHARACTERS,
    lambda inner: st.lists(inner) | st.dictionaries(CHARACTERS, inner),
    max_leaves=10,
)


def shorten(text: bytes, longest: int, cuts: list[int]) -> bytes:
    shortener = Shortener(longest, longest_inside=longest, most_items=10_000)
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    return b"".join(map(shortener.feed, pieces)) + shortener.close()


def is_cut(after: Any, before: Any) -> bool:
    """Return whether a value is another one with cut strings."""
    if isinstance(before, str):
        return before.startswith(after)
    if isinstance(before, list):
        return all(is_cut(a, b) for a, b in zip(after, before, strict=True))
    if isinstance(before, dict):
        return len(after) <= len(before)
    return bool(after == before)


@given(VALUES, WRITTEN, st.lists(st.integers(0, 10_000), max_size=9))
@example(["\U0001f600" * 3], "ascii", [8])
@example(["\\u" * 9], "ascii", [3, 4, 5])
def test_a_text_with_no_long_string_stays_as_it_is(
    value: Any, written: str, cuts: list[int]
) -> None:
    text = json.dumps(value, ensure_ascii=written == "ascii").encode()

    assert shorten(text, 10_000, cuts) == text


@given(
    VALUES,
    WRITTEN,
    st.integers(0, 40),
    st.lists(st.integers(0, 10_000), max_size=9),
)
@example(["a" + "\U0001f600" * 3], "ascii", 8, [4])
@example(["a" + "\U0001f600" * 3], "utf-8", 3, [4])
@example(["\\ud83d" * 3, "\\" * 9], "ascii", 7, [2, 3])
def test_long_strings_are_cut_at_a_character_and_nothing_else_is(
    value: Any, written: str, longest: int, cuts: list[int]
) -> None:
    text = json.dumps([value], ensure_ascii=written == "ascii").encode()

    left = shorten(text, longest, cuts)

    assert is_cut(json.loads(left), [value])
    assert not any(
        0xD800 <= ord(each) < 0xE000
        for each in json.dumps(json.loads(left), ensure_ascii=False)
    )


def test_each_text_is_cut_at_what_can_be_kept_of_it() -> None:
    """In a member together, further inside each by itself, and nothing of the items that are too many."""
    items = [{"m": "x" * 50, "n": [["y" * 9]]}] * 3
    body = {
        "text": "t" * 50,
        "values": {"a": "1" * 15, "b": "2" * 15, "c": 3, "d": "4"},
        "items": items,
        "last": "l",
    }
    shortener = Shortener(20, longest_inside=10, most_items=2)

    text = b"".join(
        shortener.feed(json.dumps(body).encode()[start : start + 7])
        for start in range(0, len(json.dumps(body)), 7)
    )

    assert json.loads(text + shortener.close()) == {
        "text": "t" * 20,
        "values": {"a": "1" * 15, "b": "222", "": ""},
        "items": [{"m": "x" * 10, "n": [["y" * 9]]}] * 2 + [{"": [[""]]}],
        "last": "l",
    }


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=5))
@example(b'["\\uZZZZZZZZZZZZZZZZ"]', [])
@example(b'["\\', [])
def test_what_is_no_json_is_never_made_json(text: bytes, cuts: list[int]) -> None:
    def loads(data: bytes) -> bool:
        try:
            json.loads(data)
        except ValueError:
            return False
        return True

    assert loads(shorten(text, 1000, cuts)) == loads(text)
