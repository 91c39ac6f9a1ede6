"""Rules of a claim: what a machine's call makes of its job."""

import pytest

from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.model import HubJob, Standing, State

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
