"""The name of a stay in `needs_attention`: the same while it lasts, another one each time."""

from datetime import UTC, datetime, timedelta

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.job import STEPS_KEPT, TrackedJob
from dispatchd.agent.domain.phase import TRANSITIONS, Event, Phase
from dispatchd.agent.store.codec import decode, encode
from dispatchd.errors import InvalidTransition
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DONE = Verdict(outcome=Outcome.SUCCEEDED, summary="Succeeded.")


def received() -> TrackedJob:
    return TrackedJob.received(Job(id="j", workflow="build"), now=NOW)


def parked() -> TrackedJob:
    return received().advance(Event.PARKED, NOW)


def test_a_job_that_is_not_parked_has_no_name() -> None:
    assert received().parking == ""
    assert parked().advance(Event.RESOLVED_RETRY, NOW).parking == ""


def test_the_name_lasts_over_any_number_of_steps_and_a_restart() -> None:
    record = parked()
    name = record.parking
    for _ in range(STEPS_KEPT * 2):
        record = record.advance(Event.REDELIVERED, NOW + timedelta(hours=1))
        record = record.advance(Event.PARKED, NOW + timedelta(hours=1))

    assert name
    assert record.parking == name
    assert len(record.steps) == STEPS_KEPT
    assert decode(encode(record), path="j.json").parking == name


def test_a_record_that_has_lost_the_step_has_no_name() -> None:
    record = parked().advance(Event.REDELIVERED, NOW)

    assert evolve(record, steps=record.steps[1:]).parking == ""


EVENTS = st.sampled_from([Event.PARKED, Event.RESOLVED_RETRY]) | st.sampled_from(Event)
SHIFTS = st.sampled_from([0, -60, 1])


@given(st.lists(st.tuples(EVENTS, SHIFTS), max_size=60))
def test_each_stay_has_a_name_of_its_own_whatever_the_clock_does(
    story: list[tuple[Event, int]],
) -> None:
    record, stays = received(), [""]
    for event, shift_s in story:
        was = record.phase
        try:
            record = record.advance(
                event, NOW + timedelta(seconds=shift_s), verdict=DONE
            )
        except InvalidTransition:
            assert (was, event) not in TRANSITIONS
            continue
        if record.phase is not Phase.NEEDS_ATTENTION:
            assert record.parking == ""
        elif was is Phase.NEEDS_ATTENTION:
            assert record.parking == stays[-1]
        else:
            assert record.parking not in stays
            stays.append(record.parking)
