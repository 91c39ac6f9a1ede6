import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.job import STEPS_KEPT, Attempt, TrackedJob, cancelled
from dispatchd.agent.domain.phase import TRANSITIONS, Event, Phase
from dispatchd.agent.domain.trace import Span, spans_of, traceparent
from dispatchd.agent.store.codec import encode
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from support.records import NOW

SUCCEEDED = Verdict(outcome=Outcome.SUCCEEDED, summary="Succeeded.")
FAILED = Verdict(
    outcome=Outcome.FAILED, cause=FailureCause.EXIT_CODE, summary="It said: hunter2."
)
REJECTED = Verdict(
    outcome=Outcome.REJECTED, cause=FailureCause.UNKNOWN_WORKFLOW, summary="No."
)

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")
"""W3C Trace Context level 1, 3.2.2: version 00, flags 01, no id of zeros."""

IDS = """
import sys
from pathlib import Path
from dispatchd.agent.domain.trace import spans_of, traceparent
from dispatchd.agent.store.codec import decode
record = decode(Path(sys.argv[1]).read_bytes(), path=Path(sys.argv[1]))
print(traceparent(record, 1), *(span.span_id for span in spans_of(record)))
"""


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def received(**job: Any) -> TrackedJob:
    return TrackedJob.received(
        Job(**{"id": "job-1", "workflow": "build", **job}), now=NOW
    )


def after(
    record: TrackedJob,
    *events: tuple[float, Event],
    verdict: Verdict | None = None,
) -> TrackedJob:
    """Return a record after some events, each with its time in seconds from the pull."""
    for seconds, event in events:
        record = record.advance(event, at(seconds), verdict=verdict)
    return record


def with_attempt(
    record: TrackedJob,
    number: int,
    start: float,
    end: float | None,
    cause: FailureCause | None = None,
) -> TrackedJob:
    return record.with_attempt(
        Attempt(
            number=number,
            started_at=at(start),
            deadline_at=at(start + 60),
            ended_at=None if end is None else at(end),
            cause=cause,
        )
    )


def finished(verdict: Verdict = SUCCEEDED, **job: Any) -> TrackedJob:
    """Return a job that was accepted after 1 s, started at 3 s, ended at 8 s and was reported at 9 s."""
    cause = verdict.cause
    record = after(
        received(**job), (1, Event.ACCEPT_CONFIRMED), (3, Event.ATTEMPT_STARTING)
    )
    record = with_attempt(record, 1, 3, 8, cause)
    return after(
        record, (8, Event.DECIDED), (9, Event.FINISH_ACKNOWLEDGED), verdict=verdict
    )


def told(record: TrackedJob) -> list[tuple[str, float, float, str]]:
    """Return name, start and end (seconds from the pull), and error of each span."""
    return [
        (
            span.name,
            (span.start - NOW).total_seconds(),
            (span.end - NOW).total_seconds(),
            span.error,
        )
        for span in spans_of(record)
    ]


def assert_sound(record: TrackedJob) -> None:
    root, *children = spans_of(record)
    assert (root.name, root.parent_id) == ("job", "")
    for span in children:
        assert span.parent_id == root.span_id
        assert root.start <= span.start <= span.end <= root.end
    assert {span.trace_id for span in spans_of(record)} == {root.trace_id}
    ids = [span.span_id for span in spans_of(record)]
    assert len(ids) == len(set(ids))


def test_a_job_is_told_from_its_pull_to_its_acknowledged_finish() -> None:
    record = finished(event="push", repository="octo/repo")

    root = spans_of(record)[0]

    assert told(record) == [
        ("job", 0, 9, ""),
        ("accept", 0, 1, ""),
        ("wait", 1, 3, ""),
        ("attempt 1", 3, 8, ""),
        ("report", 8, 9, ""),
    ]
    assert root.attributes == {
        "dispatchd.job.id": "job-1",
        "dispatchd.workflow": "build",
        "dispatchd.repository": "octo/repo",
        "dispatchd.event": "push",
        "dispatchd.outcome": "succeeded",
    }
    assert_sound(record)


def test_each_attempt_of_a_retried_job_has_a_span_and_the_waits_between_them_too() -> (
    None
):
    record = after(received(), (1, Event.ACCEPT_CONFIRMED), (1, Event.ATTEMPT_STARTING))
    record = with_attempt(record, 1, 1, 5, FailureCause.SIGNAL)
    record = after(record, (5, Event.ATTEMPT_FAILED), (9, Event.ATTEMPT_STARTING))
    record = with_attempt(record, 2, 9, 12, FailureCause.EXIT_CODE)
    record = after(
        record, (12, Event.DECIDED), (13, Event.FINISH_ACKNOWLEDGED), verdict=FAILED
    )

    attempts = [span for span in spans_of(record) if "attempt" in span.name]

    assert told(record) == [
        ("job", 0, 13, "exit-code"),
        ("accept", 0, 1, ""),
        ("wait", 1, 1, ""),
        ("attempt 1", 1, 5, "signal"),
        ("wait", 5, 9, ""),
        ("attempt 2", 9, 12, "exit-code"),
        ("report", 12, 13, ""),
    ]
    assert [span.attributes["dispatchd.attempt"] for span in attempts] == [1, 2]
    assert_sound(record)


def test_a_rejected_job_was_never_accepted() -> None:
    record = after(
        received(),
        (0, Event.REJECTED),
        (2, Event.FINISH_ACKNOWLEDGED),
        verdict=REJECTED,
    )

    assert told(record) == [
        ("job", 0, 2, "unknown-workflow"),
        ("report", 0, 2, ""),
    ]
    assert_sound(record)


def test_a_job_that_is_cancelled_while_it_waits_has_no_attempt() -> None:
    record = after(
        received(),
        (1, Event.ACCEPT_CONFIRMED),
        (4, Event.CANCEL_REQUESTED),
        (5, Event.FINISH_ACKNOWLEDGED),
        verdict=cancelled("Enough."),
    )

    assert told(record) == [
        ("job", 0, 5, "cancelled"),
        ("accept", 0, 1, ""),
        ("wait", 1, 4, ""),
        ("report", 4, 5, ""),
    ]
    assert_sound(record)


def test_a_parked_job_shows_for_how_long_a_person_was_asked() -> None:
    record = after(received(), (1, Event.ACCEPT_CONFIRMED), (2, Event.ATTEMPT_STARTING))
    record = with_attempt(record, 1, 2, 3, FailureCause.NEEDS_INPUT)
    record = after(record, (3, Event.PARKED), (603, Event.RESOLVED_RETRY))
    record = after(record, (604, Event.ACCEPT_CONFIRMED), (605, Event.ATTEMPT_STARTING))
    record = with_attempt(record, 2, 605, 610)
    record = after(
        record,
        (610, Event.DECIDED),
        (611, Event.FINISH_ACKNOWLEDGED),
        verdict=SUCCEEDED,
    )

    assert told(record) == [
        ("job", 0, 611, ""),
        ("accept", 0, 1, ""),
        ("wait", 1, 2, ""),
        ("attempt 1", 2, 3, ""),
        ("park", 3, 603, ""),
        ("accept", 603, 604, ""),
        ("wait", 604, 605, ""),
        ("attempt 2", 605, 610, ""),
        ("report", 610, 611, ""),
    ]
    assert_sound(record)


@pytest.mark.parametrize("event", [Event.ACCEPT_REFUSED, Event.LEASE_LOST])
def test_a_job_that_the_endpoint_takes_away_ends_with_that_error(event: Event) -> None:
    record = after(received(), (2, event))

    assert told(record) == [("job", 0, 2, ""), ("accept", 0, 2, event.value)]
    assert_sound(record)


def test_a_report_that_the_endpoint_does_not_take_is_an_error_of_the_report_alone() -> (
    None
):
    record = after(received(), (1, Event.ACCEPT_CONFIRMED), (2, Event.ATTEMPT_STARTING))
    record = after(
        record, (3, Event.DECIDED), (4, Event.FINISH_REFUSED), verdict=SUCCEEDED
    )

    assert told(record)[0] == ("job", 0, 4, "")
    assert told(record)[-1] == ("report", 3, 4, "finish_refused")


def test_a_redelivery_of_a_past_job_does_not_make_its_trace_longer() -> None:
    record = finished()

    again = after(record, (500, Event.REDELIVERED))
    over = after(again, (501, Event.FINISH_ACKNOWLEDGED))

    assert spans_of(again) == spans_of(record)
    assert spans_of(over) == spans_of(record)


def test_a_job_that_comes_again_after_it_was_given_back_has_a_trace_of_its_own() -> (
    None
):
    first = after(received(), (1, Event.ACCEPT_CONFIRMED), (2, Event.ATTEMPT_STARTING))
    first = with_attempt(first, 1, 2, 3, FailureCause.SIGNAL)
    first = after(first, (3, Event.ATTEMPT_FAILED), (4, Event.LEASE_LOST))
    again = evolve(TrackedJob.received(first.job, now=at(100)), attempts=first.attempts)
    again = after(again, (101, Event.ACCEPT_CONFIRMED), (102, Event.ATTEMPT_STARTING))
    again = with_attempt(again, 2, 102, 103)

    names = [span.name for span in spans_of(again)]

    assert names == ["job", "accept", "wait", "attempt 2"]
    assert spans_of(first)[0].trace_id != spans_of(again)[0].trace_id
    assert_sound(again)


def test_what_a_record_has_forgotten_is_left_out_and_the_rest_is_told() -> None:
    record = after(received(), (1, Event.ACCEPT_CONFIRMED), (2, Event.ATTEMPT_STARTING))
    record = with_attempt(record, 1, 2, None)
    record = after(record, *((3, Event.REDELIVERED) for _ in range(STEPS_KEPT)))
    record = with_attempt(record, 1, 2, 50)
    record = after(
        record, (50, Event.DECIDED), (51, Event.FINISH_ACKNOWLEDGED), verdict=SUCCEEDED
    )

    assert told(record) == [
        ("job", 0, 51, ""),
        ("attempt 1", 2, 50, ""),
        ("report", 50, 51, ""),
    ]


def test_a_job_that_is_not_over_is_told_up_to_its_last_change() -> None:
    record = after(received(), (1, Event.ACCEPT_CONFIRMED), (2, Event.ATTEMPT_STARTING))
    record = after(with_attempt(record, 1, 2, None), (7, Event.REDELIVERED))

    assert told(record) == [
        ("job", 0, 7, ""),
        ("accept", 0, 1, ""),
        ("wait", 1, 2, ""),
        ("attempt 1", 2, 7, ""),
    ]


def test_a_trace_says_nothing_that_a_command_has_said_and_no_secret() -> None:
    record = finished(FAILED, claim_token="c1aim", actor="somebody")

    words = repr(spans_of(record))

    assert "hunter2" not in words
    assert "c1aim" not in words


def test_text_from_the_endpoint_is_cut_and_made_plain() -> None:
    record = finished(id="job-\ud800", repository="o/" + "r" * 9000)

    attributes = spans_of(record)[0].attributes

    assert attributes["dispatchd.job.id"] == "job-?"
    assert len(str(attributes["dispatchd.repository"])) == 256


def test_a_context_has_the_form_of_the_standard_and_names_the_span_of_the_attempt() -> (
    None
):
    record = finished()
    attempt = next(span for span in spans_of(record) if span.name == "attempt 1")

    context = traceparent(record, 1)

    assert TRACEPARENT.fullmatch(context)
    assert context == f"00-{attempt.trace_id}-{attempt.span_id}-01"
    assert traceparent(record, 2) != context


def test_the_context_is_known_from_the_pull_on() -> None:
    assert traceparent(received(), 1) == traceparent(finished(), 1)


def test_ids_are_those_of_every_release() -> None:
    """A daemon that is upgraded in the middle of a job goes on with its trace."""
    trace_id, span_id = "837a6fd148a77eccc4b8bf70a9b492e8", "a6d08fa5a704de0a"

    assert traceparent(finished(), 1) == f"00-{trace_id}-{span_id}-01"


def test_another_process_derives_the_same_ids_from_the_stored_record(
    tmp_path: Path,
) -> None:
    record = finished(id="job-\u00fc\ud800")
    file = tmp_path / "record.json"
    file.write_bytes(encode(record))
    ours = [traceparent(record, 1), *(span.span_id for span in spans_of(record))]

    theirs = subprocess.run(
        [sys.executable, "-c", IDS, str(file)],
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()

    assert theirs == ours


def test_times_are_exact_to_the_microsecond_and_never_before_the_epoch() -> None:
    early = datetime(1969, 12, 31, tzinfo=UTC)
    span = Span(
        name="job",
        trace_id="1",
        span_id="1",
        parent_id="",
        start=early,
        end=datetime(2026, 11, 20, 12, 0, 0, 123457, tzinfo=UTC),
        attributes={},
    )

    assert (span.start_ns, span.end_ns) == (0, 1_795_176_000_123_457_000)


@st.composite
def stories(draw: st.DrawFn) -> TrackedJob:
    """Draw a record after any events that the table allows, with a clock that may be set in between."""
    record = received(id=draw(st.text()))
    now, number = NOW, 0
    for _ in range(draw(st.integers(0, 30))):
        possible = sorted(
            event for phase, event in TRANSITIONS if phase is record.phase
        )
        event = draw(st.sampled_from(possible))
        now += timedelta(seconds=draw(st.integers(-5, 60)))
        running = record.phase is Phase.RUNNING
        record = record.advance(event, now, verdict=FAILED)
        if event is Event.ATTEMPT_STARTING and record.phase is Phase.RUNNING:
            number += 1
            attempt = Attempt(number=number, started_at=now, deadline_at=now)
            record = record.with_attempt(attempt)
        elif running and record.phase is not Phase.RUNNING and record.attempt:
            ended = evolve(record.attempt, ended_at=now, cause=FailureCause.SIGNAL)
            record = record.with_attempt(ended)
    return record


@given(stories())
def test_any_story_is_told_soundly_and_always_in_the_same_words(
    record: TrackedJob,
) -> None:
    assert_sound(record)
    assert spans_of(record) == spans_of(evolve(record))
    assert TRACEPARENT.fullmatch(traceparent(record, 1))
