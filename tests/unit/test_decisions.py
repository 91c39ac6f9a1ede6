"""What becomes of a running job: a function of its record, its attempt's evidence and its workflow."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from dispatchd.agent.domain.exit_table import Contract, Ending
from dispatchd.agent.domain.job import Attempt, Terms, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence
from dispatchd.agent.domain.workflow import Workflow, terms_of
from dispatchd.agent.run_loop.decisions import (
    Gathered,
    Pace,
    decided,
    judged,
    not_started,
)
from dispatchd.agent.tracking.tracker import Decision
from dispatchd.errors import SecretUnavailable
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Exit, FailureCause, Outcome
from dispatchd.protocol.report import WITHHELD
from dispatchd.redaction.redactor import Redactor

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PACE = Pace(now=NOW, draw=lambda: 0.5, wait_s=8.0)
AGENT = Workflow(
    name="it", command=("/bin/true",), contract=Contract.HEADLESS, max_retries=1
)


def running(attempts: int) -> TrackedJob:
    made = tuple(
        Attempt(
            number=number, started_at=NOW, deadline_at=NOW, contract=Contract.HEADLESS
        )
        for number in range(1, attempts + 1)
    )
    record = TrackedJob.received(Job(id="j", workflow="it"), now=NOW)
    return evolve(record, phase=Phase.RUNNING, attempts=made)


def ended(code: int | None, *, blocked: str | None = None) -> Gathered:
    evidence = Evidence(
        end=Exit(code=code),
        contract=Contract.HEADLESS,
        story=Story(blocked=blocked),
        duration_s=1.0,
    )
    return Gathered(evidence=evidence, secrets_known=True)


def decision(record: TrackedJob, found: Gathered) -> Decision:
    return decided(record, AGENT, judged(record, found, str), PACE)


def test_a_signal_is_tried_again_after_a_drawn_wait_until_the_budget_is_used() -> None:
    again, last = decision(running(1), ended(None)), decision(running(2), ended(None))

    assert again.event is Event.ATTEMPT_FAILED
    assert again.record.retry_at == NOW + timedelta(seconds=4)
    assert again.record.attempts[0].ended_at == NOW
    assert last.event is Event.DECIDED
    assert last.verdict is not None
    assert last.verdict.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("terms", "workflow", "event"),
    [
        (Terms(retries=1), None, Event.ATTEMPT_FAILED),
        (Terms(), AGENT, Event.DECIDED),
        # Of an earlier release.
        (None, AGENT, Event.ATTEMPT_FAILED),
        (None, None, Event.DECIDED),
    ],
)
def test_the_budget_is_that_of_the_start_whatever_has_become_of_the_workflow(
    terms: Terms | None, workflow: Workflow | None, event: Event
) -> None:
    record, found = running(1), ended(None)
    record = record.with_attempt(evolve(record.attempts[0], terms=terms))

    made = decided(record, workflow, judged(record, found, str), PACE)

    assert made.event is event


def test_an_attempt_without_terms_whose_workflow_has_gone_reports_no_output() -> None:
    attempt = running(1).attempt

    assert not terms_of(attempt, None).report_output
    assert terms_of(attempt, None).has_secrets
    assert terms_of(attempt, AGENT).report_output


def test_a_run_that_asks_for_a_person_is_parked_with_its_reason() -> None:
    parked = decision(running(1), ended(0, blocked="which branch?"))

    assert parked.event is Event.PARKED
    assert "which branch?" in parked.record.blocked


def test_a_reason_is_withheld_where_its_secrets_are_not_known() -> None:
    found = evolve(ended(0, blocked="the password is x"), secrets_known=False)

    parked = decision(running(1), found)

    assert "password" not in parked.record.blocked
    assert WITHHELD in parked.record.blocked


@pytest.mark.parametrize(
    ("failures", "refused", "event"),
    [
        (0, False, Event.START_FAILED),
        (0, True, Event.DECIDED),
        (AGENT.start_retries, False, Event.DECIDED),
    ],
)
def test_a_failed_start_is_tried_again_unless_it_is_refused(
    *, failures: int, refused: bool, event: Event
) -> None:
    record = evolve(running(1), start_failures=failures)
    error = SecretUnavailable(
        name="key", reason="down", refused=refused, retry_after_s=30.0
    )

    made = not_started(
        record, AGENT, Ending.SECRET, "it is down", error=error, pace=PACE
    )

    assert made.event is event
    if event is Event.START_FAILED:
        assert made.record.attempts == ()
        assert made.record.start_failures == 1
        # As long as the endpoint asked for, and half of a tenth more.
        assert made.record.retry_at == NOW + timedelta(seconds=31.5)


SECRET = "S3cr3t-Deploy-Key-Value-42"


@pytest.mark.parametrize("before", ["", "x" * 1985, "y " * 990])
@pytest.mark.parametrize("hidden", ["\r", "\x0c", "\n", "\x1b[1m\x1f"])
@pytest.mark.parametrize(
    ("kind", "key", "more"),
    [
        ("follow_up", "text", {}),
        ("phase", "name", {}),
        ("block", "reason", {}),
        (
            "span",
            "name",
            dict.fromkeys(("started_at", "ended_at"), "2026-01-01T00:00:00Z"),
        ),
    ],
)
def test_no_part_of_a_secret_is_left_where_a_text_becomes_a_line_or_is_cut(
    kind: str, key: str, more: dict[str, str], hidden: str, before: str
) -> None:
    text = before[: 2000 if key != "name" else 185] + hidden.join(
        (SECRET[:10], SECRET[10:])
    )
    story = Story()
    story.feed(json.dumps({"type": kind, key: text, "ok": True, **more}).encode())
    evidence = evolve(ended(1).evidence, story=story)

    summaries = [
        judged(
            record, evolve(ended(1), evidence=evidence), Redactor.of([SECRET]).scrub
        ).summary
        for record in (running(1), stopped(running(1)))
    ]

    assert not [each for each in summaries if SECRET[:6] in each or SECRET[12:] in each]
    assert any("[reda" in each for each in summaries)


def stopped(record: TrackedJob) -> TrackedJob:
    """Return a record whose attempt the daemon ends, whose summary says where it hung."""
    assert record.attempt is not None
    return record.with_attempt(
        evolve(record.attempt, stop=FailureCause.INACTIVITY_TIMEOUT)
    )
