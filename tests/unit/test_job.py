from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from dispatchd.agent.domain.cancel import targets, verdict
from dispatchd.agent.domain.delivery import unknown_workflow
from dispatchd.agent.domain.job import STEPS_KEPT, Attempt, TrackedJob, cancelled
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.errors import InvalidTransition
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DONE = Verdict(outcome=Outcome.SUCCEEDED, summary="Succeeded.")


def tracked(phase: Phase = Phase.PENDING_ACCEPT, **job: Any) -> TrackedJob:
    record = TrackedJob.received(
        Job(**{"id": "job-1", "workflow": "build", **job}), now=NOW
    )
    return evolve(record, phase=phase)


def test_a_job_has_one_run_with_its_own_id() -> None:
    assert tracked().run_id == "job-1"


def test_an_event_moves_the_record_and_leaves_the_old_one_alone() -> None:
    before = tracked()

    after = before.advance(Event.ACCEPT_CONFIRMED, NOW + timedelta(seconds=1))

    assert (before.phase, after.phase) == (Phase.PENDING_ACCEPT, Phase.ACCEPTED)
    assert after.changed_at == NOW + timedelta(seconds=1)
    assert [step.event for step in after.steps] == [Event.ACCEPT_CONFIRMED]


def test_a_missing_row_tells_the_job_and_its_story() -> None:
    record = tracked().advance(Event.ACCEPT_CONFIRMED, NOW)

    with pytest.raises(
        InvalidTransition,
        match=r"finish_acknowledged.*job-1.*accepted.*accept_confirmed",
    ):
        record.advance(Event.FINISH_ACKNOWLEDGED, NOW)


def test_only_the_last_steps_are_kept() -> None:
    record = tracked()
    for _ in range(STEPS_KEPT + 5):
        record = record.advance(Event.REDELIVERED, NOW)

    assert len(record.steps) == STEPS_KEPT


def test_the_first_verdict_stands() -> None:
    record = tracked(Phase.RUNNING).advance(Event.DECIDED, NOW, verdict=DONE)

    late = record.advance(Event.CANCEL_REQUESTED, NOW, verdict=cancelled("too late"))

    assert late.verdict == DONE


@pytest.mark.parametrize("phase", [Phase.PENDING_ACCEPT, Phase.RETRY_WAIT])
@pytest.mark.parametrize("said", ["Failed with exit code 2.", ""])
def test_a_job_that_has_run_is_never_rejected_and_ends_as_its_last_attempt_did(
    phase: Phase, said: str
) -> None:
    attempt = Attempt(
        number=1,
        started_at=NOW,
        deadline_at=NOW,
        cause=FailureCause.EXIT_CODE,
        summary=said,
    )
    no = unknown_workflow("it")
    record = tracked(phase)

    fresh = record.advance(Event.REJECTED, NOW, verdict=no).verdict
    ended = record.with_attempt(attempt).advance(Event.REJECTED, NOW, verdict=no)

    assert fresh == no
    assert ended.verdict == Verdict(
        outcome=Outcome.FAILED,
        cause=FailureCause.EXIT_CODE,
        summary=f"{said or 'Attempt 1 has failed.'} It isn't tried again. {no.summary}",
    )


def test_a_verdict_is_not_kept_by_a_job_that_goes_on() -> None:
    record = tracked(Phase.RUNNING).advance(
        Event.CANCEL_REQUESTED, NOW, verdict=cancelled("now")
    )

    assert (record.phase, record.verdict) == (Phase.RUNNING, None)


def test_an_attempt_is_replaced_by_its_number() -> None:
    first = Attempt(number=1, started_at=NOW, deadline_at=NOW)
    record = tracked().with_attempt(first).with_attempt(evolve(first, number=2))

    changed = record.with_attempt(evolve(first, number=2, stop=FailureCause.CANCELLED))

    assert [each.stop for each in changed.attempts] == [None, FailureCause.CANCELLED]
    assert changed.without_attempt(2).attempts == (first,)


def test_a_job_that_left_without_a_verdict_was_given_back() -> None:
    assert tracked().advance(Event.ACCEPT_REFUSED, NOW).was_given_back
    finished = tracked(Phase.RUNNING).advance(Event.DECIDED, NOW, verdict=DONE)
    assert not finished.advance(Event.FINISH_ACKNOWLEDGED, NOW).was_given_back


CANCEL = Job(
    id="c", command="cancel", repository="o/r", pull_request=7, workflow="build"
)


def test_a_cancel_job_means_the_run_that_it_names() -> None:
    named = evolve(CANCEL, target_run_id="job-1")

    assert targets(named, [tracked(Phase.RUNNING), tracked(id="job-2")]) == [
        tracked(Phase.RUNNING)
    ]


def test_a_cancel_job_without_a_run_means_the_same_repository_pull_request_and_workflow() -> (
    None
):
    same = tracked(Phase.RUNNING, repository="o/r", pull_request=7)
    others = [
        tracked(Phase.RUNNING, repository="o/r", pull_request=8),
        tracked(Phase.RUNNING, repository="o/x", pull_request=7),
        tracked(Phase.RUNNING, repository="o/r", pull_request=7, workflow="deploy"),
        tracked(Phase.FINISHING, repository="o/r", pull_request=7),
    ]

    cancelled_before = evolve(
        tracked(Phase.FINISHING, repository="o/r", pull_request=7),
        verdict=cancelled("No longer wanted."),
    )

    found = targets(CANCEL, [*others, same, cancelled_before])

    assert found == [same, cancelled_before]


def test_a_cancel_job_succeeds_only_if_somebody_has_ended_what_it_means() -> None:
    begun = Attempt(number=1, started_at=NOW, deadline_at=NOW)
    running = tracked(Phase.RUNNING).with_attempt(begun)
    ending = running.ending(FailureCause.CANCELLED, NOW)
    waited = tracked().advance(
        Event.CANCEL_REQUESTED, NOW, verdict=cancelled("No longer wanted.")
    )
    past = waited.advance(Event.FINISH_ACKNOWLEDGED, NOW)
    ended = evolve(tracked(Phase.FINISHING), verdict=DONE)

    for each in (ending, waited, past):
        assert verdict(CANCEL, [ended, each]).outcome is Outcome.SUCCEEDED
    assert verdict(CANCEL, [ended]).cause is FailureCause.NO_TARGET
    assert (
        "no unfinished run of workflow build of o/r for pull request 7"
        in verdict(CANCEL, []).summary
    )
    assert "no run r-9" in verdict(evolve(CANCEL, target_run_id="r-9"), []).summary


@pytest.mark.parametrize(("first", "later"), [(True, False), (False, True)])
def test_what_was_once_called_a_forks_stays_a_forks(first: bool, later: bool) -> None:  # noqa: FBT001  # parameters
    record = tracked(from_fork=first)

    redelivered = record.with_claim(Job(id="job-1", from_fork=later))

    assert redelivered.job.from_fork


def test_a_record_is_never_older_than_the_one_before_whatever_the_clock_says() -> None:
    ahead = NOW + timedelta(days=30)
    job = Job(id="j", workflow="it")
    record = TrackedJob.received(job, now=ahead)

    given_back = record.advance(Event.ACCEPT_REFUSED, NOW)
    again = given_back.come_again(job, now=NOW)

    assert given_back.changed_at == ahead
    assert again.changed_at > given_back.changed_at
    assert again.advance(Event.ACCEPT_CONFIRMED, NOW).changed_at == again.changed_at
