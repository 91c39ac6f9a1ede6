"""What may become of a job: pure decisions, made inside a storage transaction."""

from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen

from dispatchd.domain.outcome import FailureCause
from dispatchd.hub.model import ENDED, HELD, HubJob, Result, Standing, State

_STATES: Final = {
    "pending_accept": State.CLAIMED,
    "accepted": State.ACCEPTED,
    "needs_attention": State.NEEDS_ATTENTION,
}
"""A machine's phase -> state here; any other phase is that of a run that has begun."""

LEASE_EXPIRED: Final = "lease-expired"
"""The failure cause of a job whose machines were not heard of any more (contracts/README.md, failure causes)."""


NOBODY_HAD_IT: Final = "Cancelled before any machine had it."
"""The summary of a job that was cancelled while it waited."""


class Refused(Exception):
    """A request that isn't granted: an HTTP status, and a message for the one who asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@frozen(kw_only=True)
class Claim:
    """Who speaks about a job: the machine, and the hash of the claim token that it showed."""

    machine: str
    token_hash: str


def claim(
    job: HubJob, machine: str, token_hash: str, *, now: float, lease_until: float
) -> HubJob:
    """Return a queued job as claimed by a machine."""
    return evolve(
        job,
        state=State.CLAIMED,
        machine=machine,
        token_hash=token_hash,
        phase="",
        reason="",
        run_id="",
        lapsed=False,
        lease_until=lease_until,
        claimed_at=now,
        accepted_at=0,
        deliveries=job.deliveries + 1,
    )


def accept(
    job: HubJob, claim: Claim, *, run_id: str, now: float, lease_until: float
) -> HubJob:
    """Return the job as accepted by the holder of its claim, with its lease extended; again is fine.

    Raises:
        Refused: The job is closed, or somebody else's.
    """
    require_holder(job, claim)
    job = evolve(job, accepts=job.accepts + 1, lease_until=lease_until, lapsed=False)
    if job.run_id:
        if job.run_id != run_id:
            raise Refused(HTTPStatus.CONFLICT, "the job was accepted for another run")
        state = State.ACCEPTED if job.state is State.QUEUED else job.state
        return evolve(job, state=state)
    return evolve(job, state=State.ACCEPTED, run_id=run_id, accepted_at=now)


def finish(job: HubJob, claim: Claim, *, result: Result, now: float) -> HubJob:
    """Return the job as finished by the holder of its claim; again with the same result is fine.

    Raises:
        Refused: The job is closed otherwise, or somebody else's.
    """
    state = State(result.status)
    if job.state in ENDED and job.finishes and _holds(job, claim):
        if job.state is not state:
            message = f"the job has already finished as {job.state}"
            raise Refused(HTTPStatus.CONFLICT, message)
        return evolve(job, finishes=job.finishes + 1)
    require_holder(job, claim)
    return evolve(
        job,
        state=state,
        lapsed=False,
        result_summary=result.summary,
        result_cause=result.cause,
        result_output=result.output,
        result_details=result.details,
        finished_at=now,
        finishes=job.finishes + 1,
    )


def beat(
    job: HubJob, claim: Claim, *, standing: Standing, lease_until: float
) -> HubJob:
    """Return the job with its lease extended, and how it stands.

    Fails with Refused: The job is closed, or somebody else's.
    """
    require_holder(job, claim)
    state = _STATES.get(standing.phase, State.RUNNING)
    if state is State.CLAIMED and job.run_id:
        # Sent before the accept and overtaken by it: it takes nothing back.
        state = State.ACCEPTED if job.state is State.QUEUED else job.state
        return evolve(job, state=state, lapsed=False, lease_until=lease_until)
    return evolve(
        job,
        state=state,
        lapsed=False,
        phase=standing.phase,
        reason=standing.reason,
        # Each progress is told once.
        progress=standing.progress or job.progress,
        lease_until=lease_until,
    )


def release(job: HubJob, claim: Claim, *, now: float) -> HubJob:
    """Return the job as queued again, for any machine; again is fine.

    Fails with Refused: The job is closed, or somebody else's.
    """
    if job.state is State.QUEUED and not job.lapsed and _holds(job, claim):
        # The claim is kept until the next one, so that a repeated release is recognised.
        return job
    require_holder(job, claim)
    return evolve(job, state=State.QUEUED, lapsed=False, lease_until=now, phase="")


def take_back(job: HubJob, claim: Claim, *, now: float) -> HubJob:
    """Return the job as it was before a claim that never reached its machine.

    Fails with Refused: The job is closed, or somebody else's.
    """
    released = release(job, claim, now=now)
    return evolve(released, deliveries=job.deliveries - 1, claimed_at=0)


def expire(job: HubJob, *, now: float, most: int) -> HubJob:
    """Return a job whose lease is over: queued again, or failed once that has happened more than `most` times."""
    expiries = job.expiries + 1
    if job.cancel_requested:
        summary = f"Cancelled; the machine {job.machine} was not heard of any more."
        return ended_here(
            job,
            State.ABORTED,
            summary,
            FailureCause.CANCELLED,
            now=now,
            expiries=expiries,
        )
    if expiries <= most:
        return evolve(job, state=State.QUEUED, lapsed=True, expiries=expiries)
    times = "once" if expiries == 1 else f"{expiries} times"
    summary = f"No machine that had it was heard of to the end ({times}, the last one was {job.machine})."
    return ended_here(
        job, State.FAILED, summary, LEASE_EXPIRED, now=now, expiries=expiries
    )


def cancel(job: HubJob, summary: str, *, now: float) -> HubJob:
    """Return an unfinished job as it is once somebody wants its end: closed, or marked for the machine that has it.

    Raises:
        Refused: It has ended.
    """
    if job.state in ENDED:
        raise Refused(HTTPStatus.GONE, f"the job has finished as {job.state}")
    if job.state in HELD:
        return evolve(job, cancel_requested=True)
    return ended_here(job, State.ABORTED, summary, FailureCause.CANCELLED, now=now)


def require_holder(job: HubJob, claim: Claim) -> None:
    """Return if a job is with whoever speaks about it.

    Raises:
        Refused: The job is closed, or somebody else's.
    """
    if job.state in ENDED:
        raise Refused(HTTPStatus.GONE, f"the job has finished as {job.state}")
    held = job.state in HELD or job.lapsed
    if not (held and _holds(job, claim)):
        raise Refused(
            HTTPStatus.CONFLICT,
            "the job isn't claimed by this machine with this claim token",
        )


def outcome_of_claim(job: HubJob) -> str:
    """Return what has come of the newest claim of a job; empty while it lasts."""
    if job.state in ENDED:
        return job.state.value
    if job.state is State.QUEUED and job.deliveries:
        return "expired" if job.lapsed else "released"
    return ""


def ended_here(
    job: HubJob,
    state: State,
    summary: str,
    cause: str,
    *,
    now: float,
    expiries: int = 0,
) -> HubJob:
    """Return a job that no machine has ended, but the hub itself."""
    return evolve(
        job,
        state=state,
        lapsed=False,
        result_summary=summary,
        result_cause=str(cause),
        finished_at=now,
        expiries=expiries or job.expiries,
    )


def _holds(job: HubJob, claim: Claim) -> bool:
    return job.machine == claim.machine and job.token_hash == claim.token_hash
