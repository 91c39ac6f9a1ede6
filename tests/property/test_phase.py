"""The transition table under any events in any order; the single rows are in `tests/unit/test_phase.py`."""

from itertools import pairwise

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.job import STEPS_KEPT, TrackedJob
from dispatchd.agent.domain.phase import TRANSITIONS, Event, Phase
from dispatchd.errors import InvalidTransition
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from support.records import NOW

ENDED = frozenset({Phase.FINISHING, Phase.HISTORY})
FIRST = Verdict(outcome=Outcome.SUCCEEDED, summary="Done.")

phases = st.sampled_from(Phase)
events = st.sampled_from(Event)
# Long enough to cross the whole table: every third event, or so, has a row.
stories = st.lists(events, max_size=60)


def at(phase: Phase) -> TrackedJob:
    """Return a record in a phase, decided where that phase is only reached so."""
    fresh = TrackedJob.received(Job(id="job-1", workflow="it"), now=NOW)
    return evolve(fresh, phase=phase, verdict=FIRST if phase in ENDED else None)


def told(record: TrackedJob, story: list[Event]) -> list[TrackedJob]:
    """Return a record and what becomes of it, event for event; those without a row are skipped."""
    records = [record]
    for number, event in enumerate(story):
        if (records[-1].phase, event) in TRANSITIONS:
            verdict = Verdict(outcome=Outcome.ABORTED, summary=f"{event} {number}")
            records.append(records[-1].advance(event, NOW, verdict=verdict))
    return records


@given(phases, events)
def test_a_pair_has_a_row_or_is_refused_and_changes_nothing(
    phase: Phase, event: Event
) -> None:
    record = at(phase)

    if (phase, event) in TRANSITIONS:
        assert record.advance(event, NOW).phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(InvalidTransition):
            record.advance(event, NOW)
    assert record == at(phase)


@given(phases, stories)
def test_an_ended_job_never_runs_again(phase: Phase, story: list[Event]) -> None:
    for before, after in pairwise(told(at(phase), story)):
        if before.phase in ENDED:
            assert after.phase in ENDED
        if before.phase is Phase.HISTORY and after.phase is Phase.FINISHING:
            # Handed out again: its finish is repeated.
            assert after.steps[-1].event is Event.REDELIVERED


@given(phases, stories)
def test_the_first_verdict_stands(phase: Phase, story: list[Event]) -> None:
    for before, after in pairwise(told(at(phase), story)):
        if before.verdict is not None:
            assert after.verdict == before.verdict


@given(stories)
def test_a_job_is_decided_exactly_from_finishing_on(story: list[Event]) -> None:
    for record in told(at(Phase.PENDING_ACCEPT), story):
        if record.phase is Phase.FINISHING:
            assert record.verdict is not None
        elif record.phase is not Phase.HISTORY:
            assert record.verdict is None


@given(stories)
def test_an_event_is_one_step_to_the_phase_of_its_row(story: list[Event]) -> None:
    for before, after in pairwise(told(at(Phase.PENDING_ACCEPT), story)):
        step = after.steps[-1]
        assert after.phase is step.phase is TRANSITIONS[before.phase, step.event]
        assert after.steps == (*before.steps, step)[-STEPS_KEPT:]


@given(phases, events)
def test_an_event_that_comes_twice_moves_at_most_once(
    phase: Phase, event: Event
) -> None:
    moves = [
        (before.phase, after.phase)
        for before, after in pairwise(told(at(phase), [event, event]))
        if before.phase is not after.phase
    ]

    assert len(moves) <= 1


@given(phases, stories)
def test_an_attempt_starts_only_where_the_accept_was_confirmed(
    phase: Phase, story: list[Event]
) -> None:
    for before, after in pairwise(told(at(phase), story)):
        if after.phase is Phase.RUNNING and before.phase is not Phase.RUNNING:
            assert before.phase in (Phase.ACCEPTED, Phase.RETRY_WAIT)
        if after.phase is Phase.ACCEPTED and before.phase is Phase.PENDING_ACCEPT:
            assert after.steps[-1].event is Event.ACCEPT_CONFIRMED
