"""What a machine may do with a job: pure decisions, made inside a storage transaction."""

from http import HTTPStatus

from attrs import evolve, frozen

from dispatchd.domain.job import CANCEL
from dispatchd.hub.storage import HubJob, State


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


def accept(job: HubJob, claim: Claim, *, run_id: str, now: float) -> HubJob:
    """Return the job as accepted by the holder of its claim; again is fine.

    Raises:
        Refused: The job is closed, or somebody else's.
    """
    _require_holder(job, claim)
    if job.state is State.ACCEPTED:
        if job.run_id != run_id:
            raise Refused(HTTPStatus.CONFLICT, "the job was accepted for another run")
        return evolve(job, accepts=job.accepts + 1)
    return evolve(
        job,
        state=State.ACCEPTED,
        run_id=run_id,
        accepted_at=now,
        accepts=job.accepts + 1,
    )


def finish(
    job: HubJob, claim: Claim, *, status: str, summary: str, now: float
) -> HubJob:
    """Return the job as finished by the holder of its claim; again with the same result is fine.

    Raises:
        Refused: The job is closed otherwise, or somebody else's.
    """
    if job.state is State.FINISHED and _holds(job, claim):
        if job.result_status != status:
            raise Refused(
                HTTPStatus.CONFLICT,
                f"the job has already finished as {job.result_status}",
            )
        return evolve(job, finishes=job.finishes + 1)
    _require_holder(job, claim)
    return evolve(
        job,
        state=State.FINISHED,
        result_status=status,
        result_summary=summary,
        finished_at=now,
        finishes=job.finishes + 1,
    )


def beat(job: HubJob, claim: Claim, *, phase: str, lease_until: float) -> HubJob:
    """Return the job with its lease extended.

    Fails with Refused: The job is closed, or somebody else's.
    """
    _require_holder(job, claim)
    return evolve(job, phase=phase, lease_until=lease_until)


def release(job: HubJob, claim: Claim) -> HubJob:
    """Return the job as queued again, for any machine.

    Fails with Refused: The job is closed, or somebody else's.
    """
    _require_holder(job, claim)
    return evolve(
        job,
        state=State.QUEUED,
        machine="",
        token_hash="",
        run_id="",
        phase="",
        accepted_at=0,
    )


def is_target(cancel: HubJob, job: HubJob) -> bool:
    """Return whether a cancel job means another job; the same rule as on the machine."""
    if (
        job.id == cancel.id
        or job.document.get("command") == CANCEL
        or job.state is State.FINISHED
    ):
        return False
    named = cancel.document.get("dag_run_id")
    if named:
        return named in (job.run_id, job.id)
    keys = ("repository_name", "pull_request_number", "dag_name")
    return all(
        (cancel.document.get(key) or None) == (job.document.get(key) or None)
        for key in keys
    )


def ask_to_cancel(job: HubJob, *, now: float) -> HubJob:
    """Return the job closed if no machine has it, else with the wish that its machine hears of."""
    if job.state is State.QUEUED:
        summary = "Cancelled before any machine had it."
        return evolve(
            job,
            state=State.FINISHED,
            result_status="aborted",
            result_summary=summary,
            finished_at=now,
        )
    return job if job.state is State.FINISHED else evolve(job, cancel_requested=True)


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
