import re

import pytest

from dispatchd.protocol.report import (
    LONGEST_TEXT,
    MOST_ANNOTATIONS,
    annotations,
    step_summary,
)
from dispatchd.protocol.result import Annotation
from dispatchd.redaction.redactor import Redactor
from dispatchd.redaction.truncate import MOST_BYTES as LONGEST_STEP_SUMMARY

SECRET = "correct-horse-battery-staple"
SCRUB = Redactor.of([SECRET]).scrub
CUT = re.compile(
    r"\n\n\*\[\.\.\. [0-9,]+ of [0-9,]+ bytes shown; the rest was cut \.\.\.\]\*$"
)
FILL = "word " * 20_000


def remark(**fields: object) -> Annotation:
    return Annotation(
        **{"path": "a.py", "start_line": 1, "level": "notice", "message": "m", **fields}  # type: ignore[arg-type]
    )


def cut_text(text: str) -> str:
    """Return what is kept of a text, which has to be cut."""
    found = step_summary(text, SCRUB)
    assert len(found.encode()) <= LONGEST_STEP_SUMMARY
    assert CUT.search(found)
    return CUT.sub("", found)


@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff"])
def test_a_summary_with_nothing_to_see_is_none(text: str) -> None:
    assert step_summary(text, SCRUB) == ""


@pytest.mark.parametrize(
    "text", ["# Done\n", "x" * LONGEST_STEP_SUMMARY, "```\ncode\n```\n"]
)
def test_a_summary_that_fits_is_left_as_it_is(text: str) -> None:
    assert step_summary(text, SCRUB) == text


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
@pytest.mark.parametrize("before", range(4))
def test_a_summary_is_cut_between_characters(letter: str, before: int) -> None:
    kept = cut_text("a" * before + letter * (LONGEST_STEP_SUMMARY + 1))

    assert set(kept) <= {"a", letter}
    assert len(kept.encode()) > LONGEST_STEP_SUMMARY - 300


@pytest.mark.parametrize(
    "text", ["x" * (LONGEST_STEP_SUMMARY + 1), "é" * (LONGEST_STEP_SUMMARY // 2 + 1)]
)
def test_a_summary_one_byte_too_long_is_cut(text: str) -> None:
    assert cut_text(text)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("```\n", "\n```"),
        ("```python\n", "\n```"),
        ("~~~ a `word`\n", "\n~~~"),
        ("`````\n```\n", "\n`````"),
        ("~~~~\n```\n~~~\n", "\n~~~~"),
        ("- list\n  ```sh\n", "\n  ```"),
        ("```\n```\n~~~\n", "\n~~~"),
        ("```\n    ```\n", "\n```"),
        ("```\n``` not a closing one\n", "\n```"),
    ],
    ids=ascii,
)
def test_a_code_block_that_the_cut_leaves_open_is_closed(
    opening: str, closing: str
) -> None:
    kept = cut_text(opening + FILL)

    assert kept.endswith(closing)
    assert kept.removesuffix(closing).endswith(("word", " ", "w", "o", "r", "d"))


@pytest.mark.parametrize(
    "text",
    [
        "```\ncode\n```\n",
        "``` code ```\n",
        "~~~\ncode\n~~~~  \n",
        "    ```\n",
        "``\n~~\n",
        "```\ncode\n  ```\r\n",
    ],
    ids=ascii,
)
def test_where_no_code_block_is_open_none_is_closed(text: str) -> None:
    kept = cut_text(text + FILL)

    assert not kept.rstrip().endswith(("`", "~"))


def test_a_fence_too_long_to_be_closed_is_cut_off_whole() -> None:
    kept = cut_text("before\n" + "`" * LONGEST_STEP_SUMMARY * 2)

    assert kept
    assert "before\n".startswith(kept)


def test_no_cut_leaves_half_of_a_secret() -> None:
    for before in range(LONGEST_STEP_SUMMARY - 320, LONGEST_STEP_SUMMARY, 7):
        found = step_summary("x" * before + SECRET + FILL, SCRUB)

        assert not any(SECRET[:length] in found for length in range(8, len(SECRET)))


def test_annotations_are_reported_without_secrets_and_within_limits() -> None:
    found = annotations(
        [
            remark(path=f"{SECRET}.py", title=f"of {SECRET}", message=f"{SECRET}!"),
            remark(message="é" * (LONGEST_TEXT + 1), end_line=2),
            remark(start_line=2**31),
            remark(end_line=10**30),
            *[remark()] * MOST_ANNOTATIONS,
        ],
        SCRUB,
    )

    assert len(found) == MOST_ANNOTATIONS
    assert found[0] == remark(
        path="[redacted].py", title="of [redacted]", message="[redacted]!"
    )
    assert found[1].message == "é" * (LONGEST_TEXT - 1) + "…"
    assert found[1].end_line == 2
    assert found[2] == remark()
