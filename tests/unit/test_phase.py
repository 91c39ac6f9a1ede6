import pytest

from dispatchd.agent.domain.phase import (
    OWES,
    TRANSITIONS,
    UNSTARTED,
    Event,
    Phase,
    diagram,
)


def test_every_phase_but_history_owes_something() -> None:
    assert {phase for phase in Phase if OWES[phase] == "nothing"} == {Phase.HISTORY}
    assert set(OWES) == set(Phase)


def test_history_leads_to_nothing_but_the_repeat_of_a_finish() -> None:
    after = {TRANSITIONS[pair] for pair in TRANSITIONS if pair[0] is Phase.HISTORY}

    assert after == {Phase.HISTORY, Phase.FINISHING}


def test_a_decided_job_can_never_run_again() -> None:
    after = {TRANSITIONS[pair] for pair in TRANSITIONS if pair[0] is Phase.FINISHING}

    assert after == {Phase.FINISHING, Phase.HISTORY}


def test_nothing_starts_before_the_accept_is_confirmed() -> None:
    starting = {
        before
        for (before, event), after in TRANSITIONS.items()
        if event is Event.ATTEMPT_STARTING and after is Phase.RUNNING
    }

    assert starting == {Phase.ACCEPTED, Phase.RETRY_WAIT}
    assert TRANSITIONS[Phase.PENDING_ACCEPT, Event.ACCEPT_CONFIRMED] is Phase.ACCEPTED


@pytest.mark.parametrize("phase", Phase)
def test_a_redelivery_puts_what_waits_to_start_before_the_fence_again_and_has_an_end_reported_anew(
    phase: Phase,
) -> None:
    moved = {
        Phase.ACCEPTED: Phase.PENDING_ACCEPT,
        Phase.RELEASING: Phase.PENDING_ACCEPT,
        Phase.RETRY_WAIT: Phase.PENDING_ACCEPT,
        Phase.HISTORY: Phase.FINISHING,
    }
    assert TRANSITIONS[phase, Event.REDELIVERED] is moved.get(phase, phase)


@pytest.mark.parametrize(
    "event",
    [
        Event.CANCEL_REQUESTED,
        Event.ACCEPT_CONFIRMED,
        Event.ACCEPT_REFUSED,
        Event.LEASE_LOST,
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_what_the_endpoint_says_late_has_a_row_in_every_phase(
    phase: Phase, event: Event
) -> None:
    assert (phase, event) in TRANSITIONS


@pytest.mark.parametrize(
    "event", [Event.ATTEMPT_STARTING, Event.DECIDED, Event.REJECTED, Event.PARKED]
)
@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.RUNNING])
def test_what_the_run_loop_decided_too_late_has_a_row_in_every_phase(
    phase: Phase, event: Event
) -> None:
    if (phase, event) != (Phase.RETRY_WAIT, Event.DECIDED):
        assert (phase, event) in TRANSITIONS


def test_every_phase_can_be_reached_and_left() -> None:
    seen, waiting = {Phase.PENDING_ACCEPT}, [Phase.PENDING_ACCEPT]
    while waiting:
        phase = waiting.pop()
        for (before, _), after in TRANSITIONS.items():
            if before is phase and after not in seen:
                seen.add(after)
                waiting.append(after)

    assert seen == set(Phase)
    assert set(Phase) >= UNSTARTED


def test_the_diagram_names_every_phase() -> None:
    text = diagram()

    assert all(phase in text for phase in Phase)
    assert "running --> retry_wait: attempt_failed" in text
