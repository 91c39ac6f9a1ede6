"""Phases and spans of a run: on its machine, on the wire, at the hub, and on the page of its job."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import asdict

from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.run.spans import reported
from dispatchd.hub.domain.reported import result_of, without_excess
from dispatchd.hub.domain.result_details import read_details
from dispatchd.hub.web.view_model import Part, nested
from dispatchd.protocol.report import RunSpan
from dispatchd.redaction.redactor import Redactor

BEGINS = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDS = BEGINS + timedelta(seconds=60)
SECRET = "correct-horse-battery-staple"
SCRUB = Redactor.of([SECRET]).scrub


def at(second: float) -> str:
    return (BEGINS + timedelta(seconds=second)).isoformat()


def phase(name: str, second: float | None = None) -> dict[str, Any]:
    event = {"type": "phase", "name": name}
    return event if second is None else {**event, "at": at(second)}


def span(name: str, start: float, end: float, *, ok: bool = True) -> dict[str, Any]:
    times = {"started_at": at(start), "ended_at": at(end)}
    return {"type": "span", "name": name, "ok": ok, **times}


def spans_of(
    *events: Mapping[str, Any],
    scrub: Callable[[str], str] = SCRUB,
) -> list[tuple[str, str, float, float, bool]]:
    story = Story()
    for event in events:
        story.feed(json.dumps(event).encode())
    assert story.malformed == 0
    found = reported(story, BEGINS, ENDS, scrub)
    return [
        (each.kind, each.name, each.start_seconds, each.duration_seconds, each.ok)
        for each in found
    ]


def test_phases_end_where_the_next_begins_and_the_last_one_with_the_run() -> None:
    assert spans_of(
        phase("build", 1),
        span("compile", 2.5, 4.25, ok=False),
        phase("test", 10),
    ) == [
        ("phase", "build", 1, 9, True),
        ("span", "compile", 2.5, 1.75, False),
        ("phase", "test", 10, 50, True),
    ]


def test_a_phase_of_an_unknown_time_is_left_out_and_so_is_one_that_it_ends() -> None:
    assert spans_of(phase("a", 1), phase("b"), phase("c", 3)) == [
        ("phase", "c", 3, 57, True)
    ]


def test_what_is_outside_of_the_run_is_cut_or_left_out() -> None:
    assert spans_of(
        span("before", -9, -1),
        span("across", -5, 5),
        span("backwards", 9, 8),
        span("longer", 50, 1e6),
        span("after", 61, 62),
    ) == [("span", "across", 0, 5, True), ("span", "longer", 50, 10, True)]


def test_names_are_lines_without_secrets_that_are_cut_afterwards() -> None:
    long = "x" * 90 + SECRET
    [[_, name, *_]] = spans_of(span(long, 1, 2))
    assert name == "x" * 90 + "[redacted]"
    [[_, name, *_]] = spans_of(span(f"a\n {SECRET}\tb", 1, 2))
    assert name == "a [redacted] b"
    in_parts = SECRET.replace("-", " - ")
    scrub = Redactor.of([" ".join(in_parts.split())]).scrub
    [[_, name, *_]] = spans_of(span(in_parts.replace(" ", "\n\t"), 1, 2), scrub=scrub)
    assert name == "[redacted]"
    [[_, name, *_]] = spans_of(span("y" * 500, 1, 2))
    assert name == "y" * 99 + "…"


def test_of_many_spans_the_newest_are_reported_beside_all_phases() -> None:
    events = [span(f"s{number}", number / 10, 50) for number in range(300)]

    found = spans_of(*events[:150], phase("build", 0), *events[150:])

    assert [name for _, name, *_ in found] == [
        "build",
        *(f"s{number}" for number in range(201, 300)),
    ]


def test_what_is_outside_of_the_run_takes_no_room() -> None:
    outside = [phase(f"p{number}", -100 + number) for number in range(99)]
    backwards = [span(f"s{number}", 9, 8) for number in range(99)]

    found = spans_of(*outside, phase("build", 1), span("compile", 2, 3), *backwards)

    assert [name for _, name, *_ in found] == ["p98", "build", "compile"]


def test_a_story_is_shown_with_its_last_span() -> None:
    story = Story()
    for number in range(50):
        story.feed(json.dumps(span(f"s{number}", 1, 2)).encode())
    scrubbed: list[str] = []

    def scrub(text: str) -> str:
        scrubbed.append(text)
        return text

    assert [each.name for each in story.shown(scrub).spans] == ["s49"]
    assert {*scrubbed} == {"s49"}


GOOD: dict[str, Any] = {
    "kind": "span",
    "name": "compile",
    "start_seconds": 1,
    "duration_seconds": 2.5,
}


def test_the_hub_keeps_what_is_valid() -> None:
    body: dict[str, Any] = {
        "result_status": "failed",
        "result_spans": [{**GOOD, "ok": False, "name": "\ud800x", "more": 1}] * 300,
    }

    trimmed = without_excess(body)
    details = read_details(result_of(trimmed).details)

    assert len(details.spans) == 100
    assert asdict(details.spans[0]) == {**GOOD, "ok": False, "name": "\ufffdx"}


@pytest.mark.parametrize(
    "item",
    [
        7,
        {**GOOD, "name": ""},
        {**GOOD, "name": None},
        {**GOOD, "start_seconds": -1},
        {**GOOD, "start_seconds": True},
        {**GOOD, "duration_seconds": float("inf")},
        {**GOOD, "duration_seconds": "1"},
        {**GOOD, "duration_seconds": 10**400},
    ],
)
def test_what_is_invalid_is_left_out_alone(item: object) -> None:
    details = read_details(json.dumps({"result_spans": [item, GOOD]}))

    assert [each.name for each in details.spans] == ["compile"]
    assert details.spans[0].ok


def run_span(start: float, duration: float) -> RunSpan:
    return RunSpan(
        kind="span", name="n", start_seconds=start, duration_seconds=duration
    )


def test_spans_lie_in_the_part_of_the_bar_in_which_the_job_ran() -> None:
    bar = [
        Part(kind="waiting", name="waiting", seconds=10, x=0, width=100),
        Part(kind="running", name="running", seconds=80, x=100, width=800),
        Part(kind="reporting", name="reporting", seconds=10, x=900, width=100),
    ]
    spans = [run_span(0, 80), run_span(40, 20), run_span(79.9, 9), run_span(1e9, 1e9)]

    found = nested(bar, spans)

    assert [(each.x, each.width) for each in found.shown] == [
        (100, 800),
        (500, 200),
        (894, 6),
        (894, 6),
    ]
    assert nested(bar, spans * 10).more == 10
    assert nested(bar[:1], spans).shown == ()
