"""Decisions about jobs: pure functions, called inside a transaction."""

from hashlib import sha256
from typing import Final

from attrs import evolve, frozen

from dispatchd.hub.domain.decisions.decision import waiting
from dispatchd.hub.domain.errors import JobEnded, NotHolder, OtherResult, WrongRun
from dispatchd.hub.domain.model import ENDED, HELD, HubJob, Result, Standing, State
from dispatchd.hub.domain.transitions import HEARD, Event, advance
from dispatchd.protocol.outcome import FailureCause

LEASE_EXPIRED: Final = "lease-expired"
"""Failure cause of a job whose machines were not heard of any more (contracts/README.md, failure causes)."""

_CONTINUES: Final = "accepted"
"""Phase of a job on a machine that has just accepted it."""

_RUNS: Final = "running"
_REPORTS: Final = "finishing"
"""Phases of a job on its machine while its run continues, and while the report of it is under way."""

_OF_NO_TOKEN: Final = ("", sha256(b"").hexdigest())

NOBODY_HAD_IT: Final = "Cancelled before any machine had it."
"""Summary of a job that was cancelled while it waited."""


@frozen(kw_only=True)
class Claim:
    """Claim on a job that a call presents: the machine, and the hash of its claim token."""

    machine: str
    token_hash: str

    @property
    def is_bare(self) -> bool:
        """True for a machine of the first protocol, which knows no claim tokens."""
        return self.token_hash in _OF_NO_TOKEN


def claim(
    job: HubJob, machine: str, token_hash: str, *, now: float, lease_until: float
) -> HubJob:
    """Return a queued job as claimed by a machine."""
    return advance(
        job,
        Event.CLAIMED,
        machine=machine,
        token_hash=token_hash,
        phase="",
        reason="",
        parked="",
        run_id="",
        lapsed=False,
        lease_until=lease_until,
        claimed_at=now,
        accepted_at=job.accepted_at if job.machine == machine else 0,
        started_at=job.started_at if job.machine == machine else 0,
        run_ended_at=0,
        deliveries=job.deliveries + 1,
    )


def accept(
    job: HubJob, claim: Claim, *, run_id: str, now: float, lease_until: float
) -> HubJob:
    """Return the job as accepted by the holder of its claim, with its lease extended; idempotent.

    A job that is to be cancelled is ended if its machine has begun nothing. Else the machine is told to end it, and so is
    one that knows claim tokens if any machine has accepted the job: it may have had the job before. A parked job that is
    accepted again continues, as somebody has decided, though its machine has not reported that yet.

    Raises:
        JobEnded: The job has ended.
        NotHolder: It belongs to another claim.
        WrongRun: It was accepted for another run.
    """
    require_holder(job, claim)
    if job.run_id and job.run_id != run_id:
        raise WrongRun
    may_have_begun = job.accepted_at or (job.accepts and not claim.is_bare)
    if job.cancel_requested and not may_have_begun:
        return _let_go(job, _not_started(job), now=now)
    return advance(
        job,
        Event.ACCEPTED,
        accepts=job.accepts + 1,
        lease_until=max(job.lease_until, lease_until),
        lapsed=False,
        run_id=run_id,
        phase=_CONTINUES if job.state is State.NEEDS_ATTENTION else job.phase,
        accepted_at=job.accepted_at or now,
    )


def finish(job: HubJob, claim: Claim, *, result: Result, now: float) -> HubJob:
    """Return the job as finished by the holder of its claim; idempotent with the same result.

    Raises:
        JobEnded: The hub has ended it.
        NotHolder: It belongs to another claim.
        OtherResult: The job has ended with another result.
    """
    event = Event(result.status)
    if job.state in ENDED and job.finishes and _holds(job, claim):
        if job.state != result.status:
            raise OtherResult(job.state)
        return advance(job, event, finishes=job.finishes + 1)
    if not (_is_released(job) and _holds(job, claim)):
        # The machine that released it may have been told to end it before the release was answered.
        require_holder(job, claim)
    return advance(
        job,
        event,
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
    """Return the job with its lease extended, and its phase on the machine.

    A job that the hub itself has ended stays as it is: a machine that still runs it is told to end it (`wants_end`).

    Raises:
        JobEnded: The job has ended.
        NotHolder: It belongs to another claim.
    """
    event = HEARD.get(standing.phase, Event.HEARD_RUNNING)
    if wants_end(job) and job.state in ENDED and _holds(job, claim):
        return advance(job, event)
    require_holder(job, claim)
    if event is Event.HEARD_PENDING and job.run_id:
        # Sent before the accept and overtaken by it: the phase doesn't go back.
        event = Event.ACCEPTED
        standing = evolve(
            standing, phase=job.phase, reason=job.reason, parked=job.parked
        )
    return advance(
        job,
        event,
        lapsed=False,
        phase=standing.phase,
        reason=standing.reason,
        parked=standing.parked,
        # Each progress is reported once.
        progress=standing.progress or job.progress,
        # A clock that was set back doesn't shorten a lease.
        lease_until=max(job.lease_until, lease_until),
    )


def note_phase(job: HubJob, *, now: float) -> HubJob:
    """Return a job after a heartbeat; the time is noted if that is the first one of a run, or of its report."""
    if job.phase == _RUNS:
        return evolve(job, started_at=job.started_at or now, run_ended_at=0.0)
    if job.phase == _REPORTS:
        return evolve(job, run_ended_at=job.run_ended_at or now)
    return job


def wants_end(job: HubJob) -> bool:
    """Return whether the machine with a job is to end it."""
    ended_here = job.state in (State.ABORTED, State.SUPERSEDED) and not job.finishes
    return ended_here or (job.cancel_requested and job.state not in ENDED)


def release(job: HubJob, claim: Claim, *, now: float) -> HubJob:
    """Return the job as queued again, for any machine, or as ended if it is to be cancelled; idempotent.

    Raises:
        JobEnded: The job has ended.
        NotHolder: It belongs to another claim.
    """
    # The claim stays in the job until the next one, so that a repeated release is recognised.
    if (_is_released(job) or _is_let_go(job)) and _holds(job, claim):
        return job
    require_holder(job, claim)
    if job.cancel_requested:
        return _let_go(job, _not_started(job), now=now)
    if _is_superseded(job):
        return _superseded(job, job.result_summary, now=now)
    return advance(
        job, Event.RELEASED, lapsed=False, lease_until=now, phase="", parked=""
    )


def take_back(job: HubJob, claim: Claim, *, before: HubJob, now: float) -> HubJob:
    """Return the job as it was before a claim that never reached its machine, or as ended if it is to be cancelled.

    `before` is the job before that claim; its claim is the newest again.

    Raises:
        JobEnded: The job has ended.
        NotHolder: It belongs to another claim.
    """
    released = release(job, claim, now=now)
    return evolve(
        released,
        machine=before.machine,
        token_hash=before.token_hash,
        lapsed=before.lapsed and released.state is State.QUEUED,
        run_id=before.run_id,
        phase=before.phase,
        reason=before.reason,
        parked=before.parked,
        lease_until=before.lease_until,
        claimed_at=before.claimed_at,
        accepted_at=before.accepted_at,
        started_at=before.started_at,
        run_ended_at=before.run_ended_at,
        deliveries=before.deliveries,
    )


def expire(job: HubJob, *, now: float, most: int) -> HubJob:
    """Return a job whose lease has expired: queued again, or failed after more than `most` expiries.

    A parked job whose end a person has decided ends so: nobody else is to run it.
    """
    decision = waiting(job)
    job = evolve(job, expiries=job.expiries + 1)
    if job.cancel_requested:
        return _let_go(job, _unheard(job), now=now)
    verdict = None if decision is None else decision.verdict
    if verdict is not None:
        summary = f"{verdict.summary} {_gone(job)}"
        cause = verdict.cause or ""
        return ended_here(job, Event(verdict.outcome.value), summary, cause, now=now)
    if _is_superseded(job):
        return _superseded(job, job.result_summary, now=now)
    if job.expiries <= most:
        return advance(job, Event.EXPIRED, lapsed=True)
    times = "once" if job.expiries == 1 else f"{job.expiries} times"
    summary = f"No machine that had it was heard of to the end ({times}, the last one was {job.machine})."
    return ended_here(job, Event.GIVEN_UP, summary, LEASE_EXPIRED, now=now)


def cancel(job: HubJob, *, now: float) -> HubJob:
    """Return an unfinished job after a cancellation: ended, or marked for the machine that has it.

    Raises:
        JobEnded: It has ended.
    """
    if job.state in ENDED:
        raise JobEnded(job.state)
    if job.state in HELD:
        return advance(job, Event.CANCEL_REQUESTED, cancel_requested=True)
    summary = _unheard(job) if job.lapsed else NOBODY_HAD_IT
    return ended_here(job, Event.CANCELLED, summary, FailureCause.CANCELLED, now=now)


def supersede(job: HubJob, summary: str, *, now: float) -> HubJob:
    """Return an unfinished job after a newer commit: ended, or marked to end if its machine hands it back."""
    if job.state in HELD:
        return evolve(job, result_summary=summary)
    return _superseded(job, summary, now=now)


def _is_superseded(job: HubJob) -> bool:
    """Return whether a newer commit came while a machine had the job."""
    return job.state in HELD and bool(job.result_summary)


def _superseded(job: HubJob, summary: str, *, now: float) -> HubJob:
    return ended_here(job, Event.SUPERSEDED, summary, "", now=now)


def _unheard(job: HubJob) -> str:
    return f"Cancelled; {_gone(job)}"


def _gone(job: HubJob) -> str:
    return f"the machine {job.machine} was not heard of any more."


def _not_started(job: HubJob) -> str:
    return f"Cancelled; the machine {job.machine} had not started it."


def _is_released(job: HubJob) -> bool:
    """Return whether the newest claim of a job, if it had any, was released."""
    return job.state is State.QUEUED and not job.lapsed


def _is_let_go(job: HubJob) -> bool:
    """Return whether the hub has ended a job that was released, with the release or after it."""
    return job.state in (State.ABORTED, State.SUPERSEDED) and not job.finishes


def _let_go(job: HubJob, summary: str, *, now: float) -> HubJob:
    """Return a job that no machine has any more, as cancelled."""
    return ended_here(job, Event.LET_GO, summary, FailureCause.CANCELLED, now=now)


def require_holder(job: HubJob, claim: Claim) -> None:
    """Check that a job belongs to a claim.

    Raises:
        JobEnded: The job has ended.
        NotHolder: It belongs to another claim.
    """
    if job.state in ENDED:
        raise JobEnded(job.state)
    held = job.state in HELD or job.lapsed
    if not (held and _holds(job, claim)):
        raise NotHolder


def outcome_of_claim(job: HubJob) -> str:
    """Return the outcome of a job's newest claim; empty while it lasts."""
    if job.state in ENDED:
        return job.state.value
    if job.state is State.QUEUED and job.deliveries:
        return "expired" if job.lapsed else "released"
    return ""


def ended_here(
    job: HubJob, event: Event, summary: str, cause: str, *, now: float
) -> HubJob:
    """Return a job as ended by the hub itself, not by a machine."""
    return advance(
        job,
        event,
        lapsed=False,
        result_summary=summary,
        result_cause=str(cause),
        finished_at=now,
    )


def _holds(job: HubJob, claim: Claim) -> bool:
    return job.machine == claim.machine and job.token_hash == claim.token_hash
