"""Rules of decisions about parked jobs: pure functions, called inside a transaction."""

from shlex import quote
from typing import Final

from attrs import evolve

from dispatchd.hub.domain.decisions.decision import Decision, is_parked, waiting
from dispatchd.hub.domain.errors import JobEnded, NotResolvable
from dispatchd.hub.domain.model import ENDED, HubJob, Standing, State

_PARKED: Final = State.NEEDS_ATTENTION.value


def decide(
    job: HubJob, decision: Decision, *, machine: str, seen: str | None = None
) -> HubJob:
    """Return a parked job with a decision that its machine is to carry out; the same decision again changes nothing.

    Args:
        job: The job.
        decision: The decision; its stay and claim are those of the job.
        machine: The name of the job's machine.
        seen: The stay in `needs_attention` that the person has seen; None for the present one.

    Raises:
        JobEnded: The job has ended.
        NotResolvable: It isn't parked, or not as the person has seen it; it is decided or to be cancelled; or its machine
            takes no decisions from the hub.
    """
    newest = Decision.of(job)
    if newest is not None and newest.is_repeated_by(decision, seen):
        # The answer to the first one was lost.
        return job
    if job.state in ENDED:
        raise JobEnded(job.state)
    refusal = _refusal(job, decision, machine, seen)
    if refusal:
        raise NotResolvable(refusal)
    return evolve(job, decision=decision.text)


def _refusal(job: HubJob, decision: Decision, machine: str, seen: str | None) -> str:
    """Return why a job that hasn't ended can't get a decision, in words; empty if it can."""
    pending = waiting(job)
    if job.state is not State.NEEDS_ATTENTION:
        return f"the job is {job.state}; only a parked one ({_PARKED}) waits for a decision"
    if job.cancel_requested:
        return "its cancel was requested, and its machine will end it"
    if not job.parked:
        command = f"dispatchd resolve {quote(job.id)} --{decision.choice}"
        return f"the machine {machine} takes no decisions from the hub; type there: {command}"
    is_same = seen in (None, job.parked) and decision.claim == job.deliveries
    if not is_same or not is_parked(job):
        return "the job has been parked again since, or continues; look at it again"
    if pending is not None:
        return f"it is decided already: {pending.choice}; the machine {machine} has yet to carry it out"
    return ""


def answer(job: HubJob, standing: Standing) -> Decision | None:
    """Return the decision to answer a heartbeat of a job with, or None: one about the very stay that it has reported."""
    # The job has what the heartbeat reports, unless that was overtaken by an accept.
    return waiting(job) if standing.phase == _PARKED else None


def note_stay(before: HubJob, job: HubJob, *, now: float) -> HubJob:
    """Return a job after a heartbeat; the time is noted if that is the first one of a stay in `needs_attention`."""
    is_known = (job.parked, job.deliveries) == (before.parked, before.deliveries)
    return job if is_known or not job.parked else evolve(job, parked_at=now)


def note_sent(job: HubJob, standing: Standing, *, now: float) -> HubJob:
    """Return a job after a heartbeat; the time of its decision's first sending is noted."""
    decision = answer(job, standing)
    if decision is None or decision.sent_at:
        return job
    return evolve(job, decision=evolve(decision, sent_at=now).text)
