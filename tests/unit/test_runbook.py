"""The runbook has each alert and each sentence of `dispatchd status`, under their own words."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatchd.agent.domain import runnable_workflows
from dispatchd.agent.domain.intake import Intake
from dispatchd.agent.endpoint.clock_skew import Skew
from dispatchd.agent.health.readiness import Health
from dispatchd.agent.health.status import Status
from dispatchd.agent.reload import Reloader
from dispatchd.agent.supervisor import Daemon
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import StoreUnavailable
from dispatchd.protocol.license import LicenseStatus

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "runbook.md").read_text("utf-8")
ALERTS = (DOCS / "monitoring" / "alerts.yml").read_text("utf-8")
NAMES = re.findall(r"- alert: (\w+)", ALERTS)

SAYING: list[Any] = [
    Health,
    Intake.blocked_reason,
    LicenseStatus.blocked_reason,
    LicenseStatus._incomplete,  # noqa: SLF001  # what a part of the status says
    LicenseStatus._refused,  # noqa: SLF001  # likewise
    LicenseStatus._worthless,  # noqa: SLF001  # likewise
    BugFence.messages,
    StoreUnavailable.__init__,
    Skew.message,
    Status._quarantined,  # noqa: SLF001  # likewise
    Reloader._reload,  # noqa: SLF001  # likewise
    Daemon._reload,  # noqa: SLF001  # likewise
    runnable_workflows.warnings,
]
"""Code whose sentences reach the status."""


def headings(part: str) -> list[str]:
    """Return the headings of a part of the page."""
    _, _, after = PAGE.partition(f"\n## {part}\n")
    section, _, _ = after.partition("\n## ")
    return re.findall(r"^### (.*)$", section, re.MULTILINE)


def sentences(code: Callable[..., Any] | property | type) -> Iterator[str]:
    """Yield the sentences that code makes, with `…` for what it fills in."""
    source = inspect.getsource(code.fget if isinstance(code, property) else code)  # type: ignore[arg-type]  # it has one
    tree = ast.parse(textwrap.dedent(source))
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for child in ast.walk(node)
        if child is not node
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_said(text: str) -> bool:
    """Return whether a text of the code is a sentence, and no docstring, part or name of an event."""
    is_docstring = text.rstrip().endswith(".") or "\n" in text
    return text.count(" ") > 2 and not is_docstring and not text.startswith(" ")


def plain(text: str) -> str:
    """Return words without marks, and with one `…` for what is filled in."""
    bare = text.replace("`", "").replace(" … … ", " … ")
    return re.sub(r"…+", "…", bare)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_leads_to_its_heading(name: str) -> None:
    about = ALERTS.split(f"- alert: {name}\n")[1].split("- alert: ")[0]

    assert f'runbook_url: "runbook.md#{name.lower()}"' in about
    assert name in headings("Alerts about machines") + headings("Alerts about the hub")


def test_no_heading_is_about_an_alert_that_is_gone() -> None:
    found = headings("Alerts about machines") + headings("Alerts about the hub")

    assert sorted(found) == sorted(NAMES)


def test_each_sentence_of_the_status_has_its_heading_and_no_other() -> None:
    said = {plain(each) for code in SAYING for each in sentences(code) if is_said(each)}
    found = [
        plain(each)
        for part in ("Words", "Warnings")
        for each in headings(f"{part} of `dispatchd status`")
    ]

    assert sorted(found) == sorted(said)
