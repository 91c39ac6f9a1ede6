import pytest

from dispatchd.domain.raw_json import loads, members
from dispatchd.domain.redaction import MARK, scrub
from dispatchd.errors import ContractViolation


def test_members_keep_their_exact_text() -> None:
    found = members('\ufeff { "a" : 1.50 ,\n"b": {"x" : [1e5, "\\u00e9"]}, "a": -0 } ')

    assert {name: member.text for name, member in found.items()} == {
        "a": "-0",
        "b": '{"x" : [1e5, "\\u00e9"]}',
    }
    assert found["b"].value == {"x": [100000.0, "é"]}
    assert members(" {} ") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"a":NaN}',
        '{"a":-Infinity}',
        "{} x",
        '{"a" 1}',
        '{"a":1,}',
        "{a:1}",
        '{"a":1 "b":2}',
    ],
)
def test_what_is_not_a_strict_object_is_refused(text: str) -> None:
    with pytest.raises(ContractViolation, match="must be JSON"):
        members(text)


@pytest.mark.parametrize("text", ['{"a":' + "[" * 200_000, "[" * 200_000])
def test_deep_nesting_is_refused_and_not_a_crash(text: str) -> None:
    for read in (members, loads):
        with pytest.raises(ContractViolation):
            read(text)


def test_loads_is_as_strict() -> None:
    assert loads("[1, null]") == [1, None]
    with pytest.raises(ContractViolation):
        loads("Infinity")


def test_known_secrets_are_taken_out_the_longest_first() -> None:
    assert (
        scrub("a secret-1 and secret-12", {"secret-1", "secret-12"})
        == f"a {MARK} and {MARK}"
    )


def test_a_short_value_is_left_alone() -> None:
    assert scrub("the main branch", {"main"}) == "the main branch"
