"""Decisions about parked jobs at the hub: who may make one when, and which heartbeat is answered with it."""

from typing import Any

import pytest
from attrs import evolve

from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.decisions.decision import Decision, Stage, waiting
from dispatchd.hub.domain.decisions.rules import answer, decide, note_sent, note_stay
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import JobEnded, NotResolvable
from dispatchd.hub.domain.events import News
from dispatchd.hub.domain.model import ENDED, HubJob, Standing, State

CLAIM = Claim(machine="m", token_hash="t")
STAY = Standing(phase="needs_attention", reason="Which?", parked="stay-1")
PARKED = HubJob(
    id="j",
    document=JobDocument({}),
    state=State.NEEDS_ATTENTION,
    machine="m",
    token_hash="t",
    run_id="r",
    phase="needs_attention",
    parked="stay-1",
    deliveries=1,
    lease_until=100,
)


def decided(job: HubJob, choice: str = "retry", **more: Any) -> HubJob:
    decision = Decision(
        choice=choice,
        note="",
        by="alice",
        at=1,
        parked=job.parked,
        claim=job.deliveries,
    )
    return decide(job, decision, machine="box", **more)


def beaten(job: HubJob, standing: Standing) -> HubJob:
    after = claim_rules.beat(job, CLAIM, standing=standing, lease_until=200)
    return note_sent(after, standing, now=5)


def accepted(job: HubJob) -> HubJob:
    return claim_rules.accept(job, CLAIM, run_id="r", now=4, lease_until=200)


def test_the_very_stay_that_was_decided_about_gets_the_decision_each_time() -> None:
    job = decided(PARKED)
    for _ in range(3):
        job = beaten(job, STAY)
        found = answer(job, STAY)
        assert found is not None
        assert (found.choice, found.parked, found.sent_at) == ("retry", "stay-1", 5)


@pytest.mark.parametrize(
    "standing",
    [
        evolve(STAY, parked="stay-2"),
        evolve(STAY, parked=""),
        Standing(phase="pending_accept"),
        Standing(phase="running"),
        Standing(phase="finishing"),
    ],
)
def test_no_other_heartbeat_gets_it_and_it_is_void_once_the_job_has_moved(
    standing: Standing,
) -> None:
    job = beaten(decided(PARKED), standing)

    assert answer(job, standing) is None
    if standing.phase != "pending_accept":
        # That one may have been overtaken by its accept, and tells nothing.
        assert waiting(job) is None
        assert Decision.of(job) is not None
        assert Decision.of(job).stage(job) is Stage.OVERTAKEN  # type: ignore[union-attr]  # it has one


def test_a_decision_that_was_sent_and_has_moved_the_job_is_not_overtaken() -> None:
    job = beaten(beaten(decided(PARKED), STAY), Standing(phase="running"))

    decision = Decision.of(job)

    assert decision is not None
    assert decision.stage(job) is Stage.SENT


def test_another_claim_makes_it_void_and_can_be_decided_again() -> None:
    queued = claim_rules.expire(decided(PARKED), now=150, most=3)
    again = claim_rules.claim(queued, "m", "t", now=160, lease_until=260)
    job = beaten(again, STAY)

    assert (queued.state, job.state) == (State.QUEUED, State.NEEDS_ATTENTION)
    assert answer(job, STAY) is None
    assert answer(beaten(decided(job, seen="stay-1"), STAY), STAY) is not None


def test_its_old_claim_still_gets_it_while_nobody_else_has_the_job() -> None:
    queued = claim_rules.expire(decided(PARKED), now=150, most=3)

    assert answer(beaten(queued, STAY), STAY) is not None


@pytest.mark.parametrize(
    ("choice", "state", "cause"),
    [("fail", State.FAILED, "needs-input"), ("succeed", State.SUCCEEDED, "")],
)
def test_a_job_whose_end_is_decided_is_run_by_nobody_else(
    choice: str, state: State, cause: str
) -> None:
    job = claim_rules.expire(decided(PARKED, choice), now=150, most=3)

    assert (job.state, job.result_cause, job.finished_at) == (state, cause, 150)
    assert job.result_summary.startswith(f"Marked as {state} by a person at the hub")
    with pytest.raises(JobEnded):
        beaten(job, STAY)


def test_a_cancel_goes_before_a_decision() -> None:
    job = claim_rules.cancel(decided(PARKED), now=3)

    assert answer(beaten(job, STAY), STAY) is None
    with pytest.raises(NotResolvable, match="cancel was requested"):
        decided(job, "fail")


def test_the_same_decision_again_changes_nothing_and_another_one_is_refused() -> None:
    job = decided(PARKED)

    assert decided(job) == job
    assert decided(job, seen="stay-1") == job
    with pytest.raises(NotResolvable, match="decided already: retry"):
        decided(job, "fail")


def test_a_repeat_whose_answer_was_lost_is_as_done_after_the_job_has_moved() -> None:
    job = beaten(beaten(decided(PARKED), STAY), Standing(phase="running"))
    again = beaten(job, evolve(STAY, parked="stay-2"))

    assert decided(job, seen="stay-1") == job
    assert decided(again, seen="stay-1") == again
    assert decided(again, seen="stay-2") != again
    with pytest.raises(NotResolvable, match="parked again"):
        decided(again, "fail", seen="stay-1")


@pytest.mark.parametrize("state", [each for each in State if each not in ENDED])
def test_only_a_parked_job_is_decided(state: State) -> None:
    job = evolve(PARKED, state=state, parked="")

    with pytest.raises(
        NotResolvable, match=state if state != "needs_attention" else "box"
    ):
        decided(job)


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_job_is_not_decided(state: State) -> None:
    with pytest.raises(JobEnded):
        decided(evolve(PARKED, state=state))


def test_a_machine_without_the_extension_is_named_with_the_command_for_it() -> None:
    job = evolve(PARKED, id="a b", parked="")

    with pytest.raises(NotResolvable) as refused:
        decided(job, "succeed")

    assert "machine box takes no decisions" in str(refused.value)
    assert str(refused.value).endswith("type there: dispatchd resolve 'a b' --succeed")


def test_a_name_that_no_answer_can_hold_becomes_one_that_it_can() -> None:
    decision = Decision(
        choice="fail", note="\ud800", by="\udfff", at=1, parked="s", claim=1
    )

    assert (decision.note, decision.by) == ("?", "?")


def test_its_machine_is_woken_for_a_decision_and_for_nothing_else() -> None:
    assert News.of(decided(PARKED)).machine == "m"
    assert News.of(PARKED).machine == ""
    assert News.of(beaten(decided(PARKED), Standing(phase="running"))).machine == ""


def test_a_job_that_its_machine_has_accepted_again_is_no_longer_decided_here() -> None:
    # Somebody has chosen another attempt on the machine, whose next heartbeat is lost.
    resumed = accepted(PARKED)
    ended = claim_rules.expire(accepted(decided(PARKED, "fail")), now=150, most=3)

    with pytest.raises(NotResolvable, match="or continues"):
        decided(resumed, "fail")
    assert ended.state is State.QUEUED
    # A repeated accept of a job that is still parked changes that only until the next heartbeat.
    assert answer(beaten(accepted(decided(PARKED)), STAY), STAY) is not None


def test_the_time_of_a_stay_is_that_of_its_first_heartbeat() -> None:
    def heard(job: HubJob, standing: Standing, now: float) -> HubJob:
        after = claim_rules.beat(job, CLAIM, standing=standing, lease_until=200)
        return note_stay(job, after, now=now)

    job = heard(heard(PARKED, Standing(phase="running"), 5), STAY, 6)
    again = heard(job, STAY, 7)
    lapsed = heard(claim_rules.expire(again, now=150, most=3), STAY, 151)
    other = heard(lapsed, evolve(STAY, parked="stay-2"), 160)

    assert [each.parked_at for each in (job, again, lapsed, other)] == [6, 6, 6, 160]
