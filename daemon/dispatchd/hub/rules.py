"""What may become of a job: pure decisions, made inside a storage transaction."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen

from dispatchd.domain.job import CANCEL, Json
from dispatchd.domain.outcome import FailureCause
from dispatchd.hub.model import ENDED, HELD, HubJob, Result, Standing, State, Submission

_SUPERSEDING: Final = ("pull_request", "pull_request_target", "push")
"""The events that a newer commit brings; a comment or a label on the same pull request takes nothing out."""

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


@frozen(kw_only=True)
class Submitted:
    """A new job as it is kept, and others as they are because of it."""

    job: HubJob
    others: Sequence[HubJob]


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
    _require_holder(job, claim)
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
    _require_holder(job, claim)
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
    _require_holder(job, claim)
    return evolve(
        job,
        state=_STATES.get(standing.phase, State.RUNNING),
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
    _require_holder(job, claim)
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
        return _ended(
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
    return _ended(job, State.FAILED, summary, LEASE_EXPIRED, now=now, expiries=expiries)


def cancel(job: HubJob, summary: str, *, now: float) -> HubJob:
    """Return an unfinished job as it is once somebody wants its end: closed, or marked for the machine that has it.

    Raises:
        Refused: It has ended.
    """
    if job.state in ENDED:
        raise Refused(HTTPStatus.GONE, f"the job has finished as {job.state}")
    if job.state in HELD:
        return evolve(job, cancel_requested=True)
    return _ended(job, State.ABORTED, summary, FailureCause.CANCELLED, now=now)


def is_cancel(document: Mapping[str, Json]) -> bool:
    """Return whether a job asks for the end of another run; the same rule as on the machine."""
    return str(document.get("command")).lower() == CANCEL


def number_of(document: Mapping[str, Json]) -> int:
    """Return the number of a job's pull request or issue; 0 for none."""
    found = document.get("pull_request_number") or document.get("issue_number")
    return found if isinstance(found, int) else 0


def may_supersede(document: Mapping[str, Json]) -> bool:
    """Return whether a job is for a commit of a pull request, so that older ones of it are of no use any more."""
    return bool(document.get("pull_request_number")) and (
        document.get("event_name") in _SUPERSEDING
    )


def after_submit(
    job: HubJob, submission: Submission, others: Sequence[HubJob], *, now: float
) -> Submitted:
    """Return a new job, and those of the others that are changed by it.

    A cancel job closes what no machine has; of what it means beyond that, the newest one's machine is the one
    that gets the cancel job, and every machine hears of its own with the next heartbeat.
    """
    if not job.urgent:
        summary = f"Superseded by the job {job.id}, which is for a newer commit."
        meant = [each for each in others if _is_older(submission.document, each)]
        ended = [_ended(each, State.SUPERSEDED, summary, "", now=now) for each in meant]
        return Submitted(job=job, others=ended)
    meant = [each for each in others if _is_meant(submission.document, each)]
    changed = [cancel(each, NOBODY_HAD_IT, now=now) for each in meant]
    held = [each for each in changed if each.cancel_requested]
    if held:
        newest = max(held, key=lambda each: each.claimed_at)
        return Submitted(job=evolve(job, only_machine=newest.machine), others=changed)
    if changed:
        summary = f"Cancelled {len(changed)} job(s) that no machine had."
        job = _ended(job, State.SUCCEEDED, summary, "", now=now)
    return Submitted(job=job, others=changed)


def outcome_of_claim(job: HubJob) -> str:
    """Return what has come of the newest claim of a job; empty while it lasts."""
    if job.state in ENDED:
        return job.state.value
    if job.state is State.QUEUED and job.deliveries:
        return "expired" if job.lapsed else "released"
    return ""


def _is_meant(cancel: Mapping[str, Json], job: HubJob) -> bool:
    """Return whether a cancel job means another job; the same rule as on the machine."""
    if job.urgent:
        return False
    named = cancel.get("dag_run_id")
    if named:
        return named in (job.run_id, job.id)
    keys = ("repository_name", "pull_request_number", "dag_name")
    return all(
        (cancel.get(key) or None) == (job.document.get(key) or None) for key in keys
    )


def _is_older(newer: Mapping[str, Json], job: HubJob) -> bool:
    """Return whether a queued job of the same workflow is for an older commit of the same pull request."""
    keys = (
        "repository_name",
        "pull_request_number",
        "dag_name",
        "event_name",
        "binding_id",
    )
    return (
        all((newer.get(key) or None) == (job.document.get(key) or None) for key in keys)
        and newer.get("sha") != job.document.get("sha")
        and may_supersede(job.document)
    )


def _ended(
    job: HubJob,
    state: State,
    summary: str,
    cause: str,
    *,
    now: float,
    expiries: int = 0,
) -> HubJob:
    """Return a job that the hub itself has ended."""
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


def _require_holder(job: HubJob, claim: Claim) -> None:
    if job.state in ENDED:
        raise Refused(HTTPStatus.GONE, f"the job has finished as {job.state}")
    held = job.state in HELD or job.lapsed
    if not (held and _holds(job, claim)):
        raise Refused(
            HTTPStatus.CONFLICT,
            "the job isn't claimed by this machine with this claim token",
        )
