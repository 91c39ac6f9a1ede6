"""What a machine may do with a job: pure decisions, made inside a storage transaction."""

from collections.abc import Mapping
from http import HTTPStatus

from attrs import evolve, frozen

from dispatchd.domain.job import CANCEL, Json
from dispatchd.hub.storage import HubJob, Result, Standing, State


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


def accept(
    job: HubJob, claim: Claim, *, run_id: str, now: float, lease_until: float
) -> HubJob:
    """Return the job as accepted by the holder of its claim, with its lease extended; again is fine.

    Raises:
        Refused: The job is closed, or somebody else's.
    """
    _require_holder(job, claim)
    if job.state is State.ACCEPTED:
        if job.run_id != run_id:
            raise Refused(HTTPStatus.CONFLICT, "the job was accepted for another run")
        return evolve(job, accepts=job.accepts + 1, lease_until=lease_until)
    return evolve(
        job,
        state=State.ACCEPTED,
        lease_until=lease_until,
        run_id=run_id,
        accepted_at=now,
        accepts=job.accepts + 1,
    )


def finish(job: HubJob, claim: Claim, *, result: Result, now: float) -> HubJob:
    """Return the job as finished by the holder of its claim; again with the same result is fine.

    Raises:
        Refused: The job is closed otherwise, or somebody else's.
    """
    if job.state is State.FINISHED and _holds(job, claim):
        if job.result_status != result.status:
            raise Refused(
                HTTPStatus.CONFLICT,
                f"the job has already finished as {job.result_status}",
            )
        return evolve(job, finishes=job.finishes + 1)
    _require_holder(job, claim)
    return evolve(
        job,
        state=State.FINISHED,
        result_status=result.status,
        result_summary=result.summary,
        result_cause=result.cause,
        result_output=result.output,
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
        phase=standing.phase,
        reason=standing.reason,
        # Each progress is told once.
        progress=standing.progress or job.progress,
        lease_until=lease_until,
    )


def release(job: HubJob, claim: Claim) -> HubJob:
    """Return the job as queued again, for any machine; again is fine.

    Fails with Refused: The job is closed, or somebody else's.
    """
    if job.state is State.QUEUED and _holds(job, claim):
        # The claim is kept until the next one, so that a repeated release is recognised.
        return job
    _require_holder(job, claim)
    return evolve(
        job, state=State.QUEUED, lease_until=0, run_id="", phase="", accepted_at=0
    )


def take_back(job: HubJob, claim: Claim) -> HubJob:
    """Return the job as it was before a claim that never reached its machine.

    Fails with Refused: The job is closed, or somebody else's.
    """
    return evolve(release(job, claim), deliveries=job.deliveries - 1, claimed_at=0)


def is_cancel(document: Mapping[str, Json]) -> bool:
    """Return whether a job asks for the end of another run; the same rule as on the machine."""
    return str(document.get("command")).lower() == CANCEL


def after_cancel(cancel: Mapping[str, Json], job: HubJob, *, now: float) -> HubJob:
    """Return an unfinished job as it is once a cancel job has been submitted.

    If that one means it, it is closed where no machine has it, else marked with the wish that its machine
    hears of.
    """
    if not _is_meant(cancel, job):
        return job
    if job.state is State.QUEUED:
        summary = "Cancelled before any machine had it."
        return evolve(
            job,
            state=State.FINISHED,
            result_status="aborted",
            result_summary=summary,
            finished_at=now,
        )
    return evolve(job, cancel_requested=True)


def _is_meant(cancel: Mapping[str, Json], job: HubJob) -> bool:
    """Return whether a cancel job means another job; the same rule as on the machine."""
    if is_cancel(job.document):
        return False
    named = cancel.get("dag_run_id")
    if named:
        return named in (job.run_id, job.id)
    keys = ("repository_name", "pull_request_number", "dag_name")
    return all(
        (cancel.get(key) or None) == (job.document.get(key) or None) for key in keys
    )


def _holds(job: HubJob, claim: Claim) -> bool:
    return job.machine == claim.machine and job.token_hash == claim.token_hash


def _require_holder(job: HubJob, claim: Claim) -> None:
    if job.state is State.FINISHED:
        raise Refused(HTTPStatus.GONE, f"the job has finished as {job.result_status}")
    if job.state is State.QUEUED or not _holds(job, claim):
        raise Refused(
            HTTPStatus.CONFLICT,
            "the job isn't claimed by this machine with this claim token",
        )
