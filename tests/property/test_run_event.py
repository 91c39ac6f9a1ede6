"""Lines of a run's events: anything at all is an event or a bad line, as its schema says."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.run.events import Story
from dispatchd.protocol.contracts import violations

times = st.sampled_from(
    ["2026-11-21T10:00:00Z", "2026-11-21T10:00:00.123+05:30", "2026-11-21T10:00:00"]
)
values = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | times
    | st.text(max_size=4)
    | st.lists(st.none(), max_size=1)
)
NAMES = [
    "name",
    "at",
    "completed",
    "in_progress",
    "total",
    "started_at",
    "ended_at",
    "ok",
    "text",
    "reason",
]
KINDS = ["phase", "progress", "span", "follow_up", "block", "other", "", None, 1]
documents = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES, values)
)
# Those that come close: each field of its kind, and at most one of them wrong.
GOOD = {
    "type": "span",
    "name": "n",
    "at": "2026-11-21T10:00:00Z",
    "completed": 1,
    "in_progress": 0,
    "total": 2,
    "started_at": "2026-11-21T10:00:00Z",
    "ended_at": "2026-11-21T10:00:01Z",
    "ok": True,
    "text": "t",
    "reason": "r",
}
nearly = st.builds(
    lambda kind, name, value: {**GOOD, "type": kind, name: value},
    st.sampled_from(KINDS[:5]),
    st.sampled_from(NAMES),
    values,
)


@given(documents | nearly)
def test_a_line_counts_exactly_if_its_schema_says_so(document: dict[str, Any]) -> None:
    story = Story()

    story.feed(json.dumps(document).encode())

    good = violations("run-event", document) == []
    assert (story.events, story.malformed) == ((1, 0) if good else (0, 1))


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_any_bytes_are_survived_and_counted(lines: list[bytes]) -> None:
    story = Story()

    for line in lines:
        story.feed(line)

    assert story.events + story.malformed == sum(bool(line.strip()) for line in lines)
    story.where()


@given(st.lists(nearly, max_size=300))
def test_what_is_kept_is_bounded(documents: list[dict[str, Any]]) -> None:
    story = Story()

    for document in documents:
        story.feed(json.dumps({**document, "name": "n" * 9_999}).encode())

    assert len(story.phases) <= 100
    assert len(story.follow_ups) <= 100
    assert all(len(each.name) <= 4096 for each in story.phases)
    assert all(len(each.name) <= 200 for each in story.shown().phases)
