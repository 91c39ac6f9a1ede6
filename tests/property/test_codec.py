import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.contracts import check
from dispatchd.domain.job import Job, TrackedJob
from dispatchd.domain.outcome import Outcome, Verdict
from dispatchd.domain.phase import TRANSITIONS, Event, Phase
from dispatchd.errors import InvalidTransition, RecordTooNew, RecordUnreadable
from dispatchd.store.codec import decode, encode
from support.records import NOW

PATH = Path("record.json")
DONE = Verdict(outcome=Outcome.SUCCEEDED, summary="Done.")
events = st.lists(st.sampled_from(Event), max_size=30)
jobs = st.builds(
    Job,
    id=st.text(min_size=1, max_size=40),
    workflow=st.text(max_size=9),
    pull_request=st.none() | st.integers(0, 2**63 - 1),
    lease_s=st.none() | st.floats(0, 1e6),
    claim_token=st.text(max_size=9),
    extensions=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


def after(job: Job, happened: list[Event]) -> TrackedJob:
    """Return a record after those of some events that its table has."""
    record = TrackedJob.received(job, now=NOW)
    for event in happened:
        if (record.phase, event) in TRANSITIONS:
            record = record.advance(event, NOW, verdict=DONE)
    return record


@given(jobs, events)
def test_a_record_comes_back_as_it_was(job: Job, happened: list[Event]) -> None:
    record = after(job, happened)

    assert decode(encode(record), path=PATH) == record


@given(
    st.sampled_from(
        [phase for phase in Phase if phase not in (Phase.RUNNING, Phase.RETRY_WAIT)]
    ),
    jobs,
)
def test_a_written_record_keeps_its_contract(phase: Phase, job: Job) -> None:
    record = after(job, ROUTES[phase])

    assert record.phase is phase
    check("tracked-job", json.loads(encode(record)))


ROUTES: dict[Phase, list[Event]] = {
    Phase.PENDING_ACCEPT: [],
    Phase.ACCEPTED: [Event.ACCEPT_CONFIRMED],
    Phase.NEEDS_ATTENTION: [Event.PARKED],
    Phase.FINISHING: [Event.REJECTED],
    Phase.HISTORY: [Event.REJECTED, Event.FINISH_ACKNOWLEDGED],
}


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["schema_version", "job", "phase"]), inner
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(
        (RecordUnreadable, RecordTooNew), match=r"cannot read record\.json"
    ):
        decode(data, path=PATH)


@given(st.sampled_from(Phase), st.sampled_from(Event))
def test_a_pair_without_a_row_changes_nothing(phase: Phase, event: Event) -> None:
    record = next(each for each in everywhere() if each.phase is phase)
    if (phase, event) in TRANSITIONS:
        assert (
            record.advance(event, NOW, verdict=DONE).phase is TRANSITIONS[phase, event]
        )
    else:
        with pytest.raises(InvalidTransition):
            record.advance(event, NOW)


def everywhere() -> list[TrackedJob]:
    """Return a record in every phase."""
    running = [Event.ACCEPT_CONFIRMED, Event.ATTEMPT_STARTING]
    routes = [*ROUTES.values(), running, [*running, Event.ATTEMPT_FAILED]]
    return [after(Job(id="j"), route) for route in routes]


@given(events, events)
def test_a_decided_job_never_moves_back_and_keeps_its_verdict(
    before: list[Event], later: list[Event]
) -> None:
    decided = after(
        Job(id="j"),
        [*before, Event.CANCEL_REQUESTED, Event.PARKED, Event.CANCEL_REQUESTED],
    )
    record = decided
    for event in later:
        if (record.phase, event) in TRANSITIONS:
            record = record.advance(event, NOW)

    if decided.phase in (Phase.FINISHING, Phase.HISTORY):
        assert record.phase in (Phase.FINISHING, Phase.HISTORY)
        assert record.verdict == decided.verdict
