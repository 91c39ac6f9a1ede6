from datetime import timedelta
from math import inf
from pathlib import Path
from random import Random

import pytest
from attrs import evolve

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.fence import ClaimAnswer, may_start
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause
from support.records import NOW
from support.standing_clock import StandingClock

LEASED = evolve(
    TrackedJob.received(
        Job(id="j", workflow="it", claim_token="2", lease_s=60), now=NOW
    ),
    phase=Phase.ACCEPTED,
)
FOR_EVER = evolve(LEASED, job=evolve(LEASED.job, lease_s=None))
SAID = ClaimAnswer(claim_token="2", asked_at=NOW, holds=True)


def after(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("passed_s", "may"), [(0, True), (59.9, True), (60, False), (86_400, False)]
)
def test_a_word_counts_for_the_length_of_the_lease(passed_s: float, may: bool) -> None:  # noqa: FBT001
    assert may_start(LEASED, SAID, NOW + after(passed_s)) is may


def test_a_daemon_that_has_heard_nothing_asks() -> None:
    assert not may_start(LEASED, None, NOW)


def test_the_longest_lease_is_one() -> None:
    record = evolve(LEASED, job=evolve(LEASED.job, lease_s=1e300))

    assert may_start(record, SAID, NOW + after(86_400))


@pytest.mark.parametrize("record", [LEASED, FOR_EVER])
def test_a_refusal_and_a_word_about_an_older_claim_allow_nothing(
    record: TrackedJob,
) -> None:
    assert not may_start(record, evolve(SAID, holds=False), NOW)
    assert not may_start(record, evolve(SAID, claim_token="1"), NOW)


def test_without_a_lease_an_accept_stands() -> None:
    assert may_start(FOR_EVER, None, NOW)
    assert may_start(FOR_EVER, SAID, NOW + after(1e9))


def test_a_process_may_still_begin_for_the_rest_of_the_lease(tmp_path: Path) -> None:
    clock = StandingClock()
    store = JobStore.open(tmp_path)[0]
    fence = Fence(Tracker(store, clock, Disk(Random(0))), clock)
    assert fence.left_s(LEASED) == 0.0

    fence.note(LEASED, NOW, holds=True)
    clock.time = NOW + after(20)
    assert fence.left_s(LEASED) == 40.0
    clock.time = NOW + after(60)
    assert fence.left_s(LEASED) == 0.0

    fence.note(FOR_EVER, clock.time, holds=True)
    assert fence.left_s(FOR_EVER) == inf


STARTING = Attempt(number=1, started_at=NOW, deadline_at=NOW)


@pytest.mark.parametrize("event", [Event.LEASE_LOST, Event.ACCEPT_REFUSED])
def test_a_claim_that_is_lost_ends_a_start_and_no_run(event: Event) -> None:
    starting = evolve(LEASED, phase=Phase.RUNNING, attempts=(STARTING,))
    process = evolve(STARTING, process=_process())

    lost = starting.after_answer(event, NOW)
    kept = evolve(starting, attempts=(process,)).after_answer(event, NOW)

    assert (lost.phase, lost.attempts, lost.was_given_back) == (
        Phase.HISTORY,
        (),
        True,
    )
    assert (kept.phase, kept.attempts) == (Phase.RUNNING, (process,))


def test_a_start_that_somebody_has_ended_is_judged_by_that() -> None:
    record = evolve(LEASED, phase=Phase.RUNNING, attempts=(STARTING,))
    cancelled = record.ending(FailureCause.CANCELLED, NOW)

    assert cancelled.after_answer(Event.LEASE_LOST, NOW).phase is Phase.RUNNING


def _process() -> ProcessIdentity:
    return ProcessIdentity(pid=1, start_ticks=1, boot_id="boot")


_STARTING = (Event.ACCEPT_CONFIRMED, Event.ATTEMPT_STARTING)
_AGAIN = (*_STARTING, Event.REDELIVERED)


@pytest.mark.parametrize(
    ("events", "is_accepted"),
    [
        ((), True),
        (_STARTING, True),
        (_AGAIN, False),
        ((*_AGAIN, Event.ATTEMPT_NEVER_STARTED), False),
        ((*_AGAIN, Event.ATTEMPT_STARTED, Event.ATTEMPT_FAILED), False),
        ((*_AGAIN, Event.ACCEPT_CONFIRMED, Event.ATTEMPT_NEVER_STARTED), True),
    ],
)
def test_after_a_restart_an_accept_without_a_lease_stands_for_its_own_claim_alone(
    events: tuple[Event, ...],
    is_accepted: bool,  # noqa: FBT001  # a column of the table
) -> None:
    record = evolve(FOR_EVER, phase=Phase.PENDING_ACCEPT)
    for each in events:
        record = record.advance(each, NOW)

    assert may_start(record, None, NOW) is is_accepted
