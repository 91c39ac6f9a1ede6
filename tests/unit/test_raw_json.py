from math import inf

import pytest

from dispatchd.errors import ContractViolation
from dispatchd.protocol.json_text import loads, members


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
        '{"a":1,,"b":2}',
        '{"a":}',
        "{'a':1}",
        '{"a":01}',
        '{"a":[01]}',
        '{"a":+1}',
        '{"a":.5}',
        '{"a":1.}',
        '{"a":0x1}',
        '{"a":\u0661}',
        '{"a":[1,]}',
        '{"a":{"b":1,}}',
        '{"a":{"b":NaN}}',
        '{"a":"\n"}',
        '{"a":"\\x41"}',
        '{"a":"b}',
        '{"a":1}\ufeff',
        "\ufeff\ufeff{}",
        "\u00a0{}",
        "{}\v",
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


def test_a_number_that_python_would_change_keeps_its_text() -> None:
    found = members('{"big": 1e999, "exact": 0.1000, "long": 12345678901234567890}')

    assert [member.text for member in found.values()] == [
        "1e999",
        "0.1000",
        "12345678901234567890",
    ]


def test_a_number_of_too_many_digits_is_a_very_large_one_and_keeps_its_text() -> None:
    digits = "9" * 5000

    assert loads(f'{{"a":{digits}}}') == {"a": inf}
    assert members(f'{{"a":{digits}}}')["a"].text == digits


def test_a_payload_of_20_mib_is_cut_out_whole() -> None:
    payload = '{"body": "' + "é" * (20 * 1024 * 1024) + '"}'

    assert members(f'{{"id": "j", "payload": {payload}}}')["payload"].text == payload


def test_an_error_names_the_place_and_not_the_text() -> None:
    with pytest.raises(ContractViolation) as caught:
        loads('{"token": "hunter2", "a": }')

    assert "char 26" in str(caught.value)
    assert "hunter2" not in str(caught.value)
