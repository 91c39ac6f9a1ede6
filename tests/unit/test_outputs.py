import pytest

from dispatchd.agent.domain.run.outputs import LARGEST, MOST, parse, reported
from dispatchd.redaction.redactor import Redactor

SECRET = "correct-horse-battery-staple"
REDACTOR = Redactor.of([SECRET])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a=1\nb=2\n", {"a": "1", "b": "2"}),
        ("a=1", {"a": "1"}),
        ("\n\na=\n\n", {"a": ""}),
        ("a=1=2<<3\n", {"a": "1=2<<3"}),
        ("a= 1 \r\n", {"a": " 1 \r"}),
        ("a=1\na=2\n", {"a": "2"}),
        ("\ufeffa=1\n", {"a": "1"}),
        ("a<<EOF\nx\n\ny=z\nEOF\nb=2\n", {"a": "x\n\ny=z", "b": "2"}),
        ("a<<EOF\nEOF\n", {"a": ""}),
        ("a<<EOF\nx\nEOF", {"a": "x"}),
        ("a<<E=F\nx\nE=F\n", {"a": "x"}),
        ("a<<E<<F\nx\nE<<F\n", {"a": "x"}),
        ("a<<EOF\n EOF\nEOF \nEOF\n", {"a": " EOF\nEOF "}),
        ("image-digest=x\n_1=y\n", {"image-digest": "x", "_1": "y"}),
        ("a=x\x85y\u2028z\x0bw\n", {"a": "x\x85y\u2028z\x0bw"}),
    ],
    ids=ascii,
)
def test_outputs_are_read_as_githubs_runner_reads_them(
    text: str, values: dict[str, str]
) -> None:
    found = parse(text)

    assert dict(found.values) == values
    assert found.sentences == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no sign\na=1\n", "line 1: neither NAME=VALUE nor NAME<<DELIMITER"),
        ("a=1\nb<<\n", "line 2: neither"),
        ("=x\na=1\n", "line 1: its name"),
        ("1=x\na=1\n", "line 1: its name"),
        ("é=x\na=1\n", "line 1: its name"),
        ("a b=x\na=1\n", "line 1: its name"),
        ("<<EOF\nb=2\nEOF\na=1\n", "line 1: its name"),
        ("a=1\nb<<EOF\nc=3\n", "line 2: the delimiter"),
    ],
    ids=ascii,
)
def test_what_is_no_output_is_left_out_and_said(text: str, reason: str) -> None:
    found = parse(text)

    assert dict(found.values) == {"a": "1"}
    (sentence,) = found.sentences
    assert reason in sentence


def test_of_a_file_that_was_cut_the_broken_line_is_left_out() -> None:
    found = parse("a=1\nb=not al", cut=True)

    assert dict(found.values) == {"a": "1"}
    assert found.left_out == 1


def test_a_million_bad_lines_are_told_in_few_words() -> None:
    found = parse("x\n" * 500_000)

    assert found.left_out == 500_000
    assert len(found.sentences) == 6
    assert found.sentences[-1] == "and 499995 more outputs"


def test_the_first_hundred_outputs_are_reported() -> None:
    text = "".join(f"n{number}={number}\n" for number in range(MOST + 1))

    found = reported(parse(text), REDACTOR.scrub)

    assert list(found.values) == [f"n{number}" for number in range(MOST)]
    (sentence,) = found.sentences
    assert "n100" in sentence


def test_an_output_that_does_not_fit_is_left_out_and_what_follows_is_not() -> None:
    half = "é" * (LARGEST // 4)

    found = reported(parse(f"a={half}\nb={half}\nc=1\n"), REDACTOR.scrub)

    assert dict(found.values) == {"a": half, "c": "1"}
    assert "b" in found.sentences[0]


def test_outputs_of_the_largest_size_are_reported() -> None:
    value = "x" * (LARGEST - 1)

    assert dict(reported(parse(f"a={value}"), REDACTOR.scrub).values) == {"a": value}
    assert reported(parse(f"ab={value}"), REDACTOR.scrub).left_out == 1


def test_secrets_are_taken_out_of_values() -> None:
    text = f"a=it is {SECRET}!\nb<<E\nx\n{SECRET}\nE\npassword=hunter2\n"

    found = reported(parse(text), REDACTOR.scrub)

    assert dict(found.values) == {
        "a": "it is [redacted]!",
        "b": "x\n[redacted]",
        "password": "[redacted]",
    }


def test_an_output_whose_name_is_a_secret_is_left_out() -> None:
    found = reported(parse(f"{SECRET}=1\na=2\n"), REDACTOR.scrub)

    assert dict(found.values) == {"a": "2"}
    assert found.left_out == 1
    assert SECRET not in str(found.sentences)
