"""Log commands in an output: which lines are annotations, and what a hostile output costs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.run.log_commands import annotations
from dispatchd.agent.store.evidence import LONGEST_COMMAND, MOST_EVENTS, command_lines
from dispatchd.protocol.result import Annotation


def found(*lines: str) -> list[Annotation]:
    return list(annotations(lines, "/state/runs/j/workspace"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "::error file=app.py,line=3,endLine=5,title=Type%3A wrong%2C really::Use int%25%0Ahere\r",
            Annotation(
                path="app.py",
                start_line=3,
                end_line=5,
                level="failure",
                title="Type: wrong, really",
                message="Use int%\nhere",
            ),
        ),
        (
            "  ::warning file=/state/runs/j/workspace/src/a.c,line=7,col=2::unused: x::y",
            Annotation(
                path="src/a.c",
                start_line=7,
                level="warning",
                message="unused: x::y",
            ),
        ),
        (
            "::notice::Done",
            Annotation(path=".github", start_line=1, level="notice", message="Done"),
        ),
        (
            "::error file=./b,line=x,endLine=-1::odd numbers",
            Annotation(
                path="b",
                start_line=1,
                level="failure",
                message="odd numbers",
            ),
        ),
    ],
)
def test_a_command_is_an_annotation(line: str, expected: Annotation) -> None:
    assert found("before", line, "after") == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "text ::error::x",
        "::error",
        "::error::",
        "::group::x",
        ":: error::x",
        "error::x",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert found(line) == []


def test_nothing_is_a_command_between_stop_and_its_token() -> None:
    remarks = found(
        "::stop-commands::a1-B2",
        "::error::printed by somebody else",
        "::wrong::",
        "::a1-B2::",
        "::error::mine",
    )
    assert [remark.message for remark in remarks] == ["mine"]


@given(st.lists(st.text("::err =,%0AD25\n\r\0é", max_size=30)))
def test_whatever_is_printed_gives_valid_annotations(lines: list[str]) -> None:
    for remark in found(*lines, *(f"::error {line}" for line in lines)):
        assert remark.path
        assert remark.message
        assert 1 <= remark.start_line <= (remark.end_line or remark.start_line)


def test_commands_are_found_across_pieces_and_cut_where_they_are_endless(
    tmp_path: Path,
) -> None:
    output = tmp_path / "output.log"
    filler = b"x" * (256 * 1024 - 5) + b"\n"
    endless = b"::notice::" + b"z" * 600_000
    output.write_bytes(filler + b"::error::across\n" + endless + b"\n::error::last")

    lines = list(command_lines(output))

    assert [line[:20] for line in lines] == [
        "::error::across",
        "::notice::zzzzzzzzzz",
        "::error::last",
    ]
    assert len(lines[1]) == LONGEST_COMMAND


def test_a_flood_of_commands_is_read_in_part(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_bytes(b"::a\n" * (MOST_EVENTS + 200_000))

    assert MOST_EVENTS <= sum(1 for _ in command_lines(output)) < MOST_EVENTS + 70_000


def test_what_is_no_file_has_no_commands(tmp_path: Path) -> None:
    assert list(command_lines(tmp_path)) == []
    assert list(command_lines(tmp_path / "missing")) == []
