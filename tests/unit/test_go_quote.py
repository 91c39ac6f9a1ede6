import json
from unicodedata import category

from dispatchd.agent.domain.run.environment import runtime_parameters
from dispatchd.agent.domain.run.go_quote import go_quote
from support.fixtures import ROOT


def test_dagus_inline_form_is_sorted_and_quoted() -> None:
    assert (
        runtime_parameters({"B": 'say "hi"\n', "A": "1"}) == r'A="1" B="say \"hi\"\n"'
    )


GO = json.loads((ROOT / "go-quote.json").read_text())
"""Printed by go_quote.go, which stands beside it."""


def code_points(runs: list[tuple[int, int]]) -> set[int]:
    return {code for first, last in runs for code in range(first, last + 1)}


def test_quoting_is_that_of_go() -> None:
    pairs = [(json.loads(source), quoted) for source, quoted in GO["pairs"]]
    # What is a character depends on the Unicode version of either side; see below for all that both know.
    both = code_points(GO["assigned"]) | set(range(0xD800, 0xE000))
    known = [
        (text, quoted)
        for text, quoted in pairs
        if all(ord(each) in both and category(each) != "Cn" for each in text)
    ]

    assert len(known) > 500
    assert [go_quote(text) for text, _ in known] == [quoted for _, quoted in known]


def test_what_go_can_print_stays_as_it_is() -> None:
    printable = code_points(GO["printable"]) - {ord('"'), ord("\\")}
    both = [code for code in code_points(GO["assigned"]) if category(chr(code)) != "Cn"]

    differing = [
        hex(code)
        for code in both
        if (go_quote(chr(code)) == f'"{chr(code)}"') is not (code in printable)
    ]

    assert len(both) > 250_000
    assert differing == []
