"""docs/log-events.md has every event of the log with its level, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from dispatchd.agent.domain.phase import Event

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "log-events.md").read_text("utf-8")

LEVELS = ("debug", "info", "warning", "error", "exception")
"""Methods of a logger, the least urgent first."""

PASSED_ON = {"note", "note_from", "_trouble_is_said", "_count_from"}
"""Functions that get the name of a warning from their caller."""

STEPS = {f"job_{event}" for event in Event} | {"job_received"}
"""Events of the steps of a job."""


def logged() -> Iterator[tuple[str, str]]:
    """Yield each event in the code with a level of it."""
    for file in (ROOT / "daemon" / "dispatchd").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name not in {*LEVELS, *PASSED_ON}:
                continue
            level = name if name in LEVELS else "warning"
            for word in call.args if name in PASSED_ON else call.args[:1]:
                text = getattr(word, "value", None)
                if isinstance(text, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", text):
                    yield text, "error" if level == "exception" else level
    for step in STEPS:
        yield step, "info"


def documented() -> Iterator[tuple[str, str]]:
    """Yield each event on the page with its level; `info` where the table has no column for it."""
    for row in re.findall(r"^\| (`[a-z_`, ]+`) \|(.*)$", PAGE, re.MULTILINE):
        level = row[1].split("|")[0].strip()
        for event in re.findall(r"`(\w+)`", row[0]):
            yield event, level if level in LEVELS else "info"


def test_every_event_is_on_the_page() -> None:
    assert {event for event, _ in documented()} == {event for event, _ in logged()}


def test_each_event_has_its_level() -> None:
    in_code: dict[str, set[str]] = {}
    for event, level in logged():
        in_code.setdefault(event, set()).add("info" if level == "debug" else level)
    on_page: dict[str, set[str]] = {}
    for event, level in documented():
        on_page.setdefault(event, set()).add(level)

    assert on_page == in_code


def test_an_event_that_needs_somebody_says_what_to_do() -> None:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1 and cells[1] in {"warning", "error"}:
            assert len(cells) == 4, line
            assert all(cells), line
