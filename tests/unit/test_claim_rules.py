"""Rules of a claim: what a machine's call makes of its job."""

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import JobEnded, NotHolder
from dispatchd.hub.domain.model import ENDED, HubJob, Result, Standing, State

CLAIM = Claim(machine="m", token_hash="t")
STANDING = Standing(phase="running", reason="", progress="")
RUNNING = HubJob(
    id="j",
    document=JobDocument({}),
    state=State.RUNNING,
    machine="m",
    token_hash="t",
    run_id="r",
    accepts=1,
    lease_until=100,
)


@pytest.mark.parametrize(("granted_until", "lease_until"), [(160, 160), (40, 100)])
def test_a_clock_that_was_set_back_shortens_no_lease(
    granted_until: float, lease_until: float
) -> None:
    beaten = claim_rules.beat(
        RUNNING, CLAIM, standing=STANDING, lease_until=granted_until
    )
    accepted = claim_rules.accept(
        RUNNING, CLAIM, run_id="r", now=1, lease_until=granted_until
    )

    assert beaten.lease_until == lease_until
    assert accepted.lease_until == lease_until


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "claim", [evolve(CLAIM, token_hash="other"), evolve(CLAIM, machine="other")]
)
@pytest.mark.parametrize("marks", [{}, {"finishes": 1}, {"cancel_requested": True}])
def test_a_claim_of_others_changes_no_job(
    state: State, claim: Claim, marks: dict[str, Any]
) -> None:
    job = evolve(RUNNING, state=state, **marks)
    result = Result(status=state.value if state in ENDED else "failed", summary="")
    calls: list[Callable[[], HubJob]] = [
        lambda: claim_rules.accept(job, claim, run_id="r", now=1, lease_until=2),
        lambda: claim_rules.beat(job, claim, standing=STANDING, lease_until=2),
        lambda: claim_rules.finish(job, claim, result=result, now=1),
        lambda: claim_rules.release(job, claim, now=1),
        lambda: claim_rules.take_back(job, claim, before=job, now=1),
    ]
    for call in calls:
        with pytest.raises((NotHolder, JobEnded)):
            call()


def test_the_times_of_a_run_are_those_of_the_first_heartbeats_that_tell_of_it() -> None:
    job, now = evolve(RUNNING, state=State.ACCEPTED), 0.0
    times = []
    for phase in (
        *("accepted", "running", "running", "finishing", "finishing"),
        # Somebody has decided about it: it runs once more.
        *("needs_attention", "running", "finishing"),
    ):
        now += 1
        heard = claim_rules.beat(
            job, CLAIM, standing=evolve(STANDING, phase=phase), lease_until=100
        )
        job = claim_rules.note_phase(heard, now=now)
        times.append((job.started_at, job.run_ended_at))

    assert times[:4] == [(0, 0), (2, 0), (2, 0), (2, 4)]
    assert times[4:] == [(2, 4), (2, 4), (2, 0), (2, 8)]
    queued = claim_rules.release(job, CLAIM, now=9)
    again = claim_rules.claim(queued, "m", "u", now=9, lease_until=100)
    other = claim_rules.claim(queued, "n", "u", now=9, lease_until=100)
    assert (again.started_at, again.run_ended_at) == (2, 0)
    assert (other.started_at, other.run_ended_at) == (0, 0)
    back = claim_rules.take_back(
        other, Claim(machine="n", token_hash="u"), before=queued, now=9
    )
    assert (back.started_at, back.run_ended_at) == (2, 8)
