import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.errors import ContractViolation
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import loads, members
from dispatchd.redaction.redactor import MARK, scrub

texts = st.text(max_size=20)
values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)
spaces = st.text(" \t\r\n", max_size=3)
json_like = st.text('{}[]",:\\ \n0123456789eE+-.truefalsn\ufeffNaI', max_size=30)


@given(
    st.dictionaries(texts, values, max_size=6),
    st.sampled_from([None, 1]),
    spaces,
)
def test_slices_are_exact_and_make_the_object_again(
    document: dict[str, Json], indent: int | None, space: str
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=indent is None)

    found = members(space + text + space)

    for name, member in found.items():
        assert member.text == member.text.strip()
        assert member.text in text
        assert json.loads(member.text) == member.value == document[name]
    again = ",".join(f"{json.dumps(name)}:{found[name].text}" for name in found)
    assert json.loads("{" + again + "}") == document


@given(st.lists(st.tuples(st.sampled_from("ab"), values), max_size=5))
def test_of_equal_names_the_last_one_counts(pairs: list[tuple[str, Json]]) -> None:
    text = "{" + ",".join(f'"{name}":{json.dumps(value)}' for name, value in pairs)

    found = members(text + "}")

    assert {name: member.value for name, member in found.items()} == dict(pairs)


@given(json_like | st.text() | values.map(json.dumps))
@example("[1] [2]")
def test_both_readers_agree_with_each_other_on_any_text(text: str) -> None:
    try:
        value = loads(text)
    except ContractViolation:
        value = None

    if isinstance(value, dict):
        assert {name: each.value for name, each in members(text).items()} == value
    else:
        with pytest.raises(ContractViolation):
            members(text)


@given(st.dictionaries(texts, values, min_size=1, max_size=4), st.data())
def test_a_text_that_ends_too_early_is_refused(
    document: dict[str, Json], data: st.DataObject
) -> None:
    text = json.dumps(document)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]

    with pytest.raises(ContractViolation):
        members(cut)


# No letter of the mark, so that a secret can't begin or end in one.
secrets_texts = st.text("fghijk-0\n", min_size=6, max_size=12)


@given(st.sets(secrets_texts, max_size=4), st.data())
def test_no_known_secret_survives_and_no_more_is_taken(
    secrets: set[str], data: st.DataObject
) -> None:
    pieces = st.text("fghijk-0\n", max_size=8) | st.sampled_from([*secrets, " "])
    text = "".join(data.draw(st.lists(pieces, max_size=12)))

    clean = scrub(text, secrets)

    assert not any(secret in clean for secret in secrets)
    assert scrub(clean, secrets) == clean
    assert all(piece in text for piece in clean.split(MARK))
    if not any(secret in text for secret in secrets):
        assert clean == text
