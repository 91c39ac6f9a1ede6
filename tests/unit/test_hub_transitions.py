"""The table of a job's states at the hub."""

import pytest

from dispatchd.hub.domain.model import ENDED, HELD, HubJob, State
from dispatchd.hub.domain.transitions import (
    TRANSITIONS,
    Event,
    InvalidTransition,
    advance,
)


def test_an_ended_job_stays_as_it_ended() -> None:
    left = {
        (before, after)
        for (before, _), after in TRANSITIONS.items()
        if before in ENDED and after is not before
    }

    assert left == set()


def test_only_a_claim_gives_a_job_to_a_machine() -> None:
    given = {
        event
        for (before, event), after in TRANSITIONS.items()
        if before is State.RECEIVED and after in HELD
    }

    assert given == set()
    assert TRANSITIONS[State.QUEUED, Event.CLAIMED] is State.CLAIMED


@pytest.mark.parametrize("state", HELD)
def test_a_job_on_a_machine_can_end_in_every_way(state: State) -> None:
    after = {TRANSITIONS[pair] for pair in TRANSITIONS if pair[0] is state}

    assert set(ENDED) - after == {State.IGNORED}


@pytest.mark.parametrize("state", HELD)
def test_what_a_machine_says_late_takes_nothing_back(state: State) -> None:
    assert TRANSITIONS[state, Event.HEARD_PENDING] is state


def test_every_state_is_reached() -> None:
    reached = {State.RECEIVED, State.QUEUED, *TRANSITIONS.values()}

    assert reached == set(State)


def test_an_event_without_a_row_is_a_bug_that_names_both() -> None:
    job = HubJob(id="j", document={}, state=State.FAILED)

    with pytest.raises(InvalidTransition, match="claimed to job j in state failed"):
        advance(job, Event.CLAIMED)
