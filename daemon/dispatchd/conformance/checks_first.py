"""Checks of the first protocol: each returns how a record breaks a rule, in words that quote no body. Pure."""

from dispatchd.conformance.comparison import (
    CLOSED,
    SUCCESS,
    first_of,
    repeat_problem,
    reply_problem,
    status_problem,
)
from dispatchd.conformance.record import Record


def unanswered(record: Record) -> str:
    """Return the first step without an answer."""
    for step, answer in record.answers.items():
        if answer.fault:
            return f"{step}: {answer.fault}"
    return ""


def bare_refusals(record: Record) -> str:
    """Return the first refusal without a message."""
    for step, answer in record.all():
        if answer.is_refusal and not answer.text("message"):
            return f"{step}: {answer.status} without a JSON object that has a message"
    return ""


def foreign_bodies(record: Record) -> str:
    """Return the first body that isn't the contract's form."""
    for step, answer in record.all():
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = answer.headers.get("content-encoding", "").strip().lower()
        if coding not in {"", "identity"}:
            return f"{step}: the answer has a content coding, which was not asked for"
        if answer.body and answer.document is None:
            return f"{step}: the body of {answer.status} is no JSON object"
        if answer.body and kind != "application/json":
            return (
                f"{step}: the Content-Type of {answer.status} is not application/json"
            )
    return ""


def accepts_garbage(record: Record) -> str:
    """Return how a call that is none was answered."""
    for step in ("pull that is no JSON", "pull that is no object"):
        status = record.answers[step].status
        if not 400 <= status < 500:  # noqa: PLR2004  # the client's mistakes (RFC 9110)
            return f"{step}: {status} in place of 400"
    return ""


def job_from_nowhere(record: Record) -> str:
    """Return how a pull was answered for which there was no job."""
    return status_problem(record, "pull of nothing", (204,))


def pull_of_anybody(record: Record) -> str:
    """Return how a pull without a right was answered."""
    return status_problem(record, "pull with a wrong secret", (401,))


def no_job(record: Record) -> str:
    """Return how a pull was answered for which there was a job, or the first job that breaks its schema."""
    if problem := status_problem(record, "first job", (200,)):
        return problem
    for step in dict.fromkeys(("first job", *record.jobs)):
        if broken := record.answers[step].breach("dispatch-job"):
            return f"{step}: {broken}"
    return ""


def unasked_extensions(record: Record) -> str:
    """Return the extensions that a client of the first protocol was shown."""
    job = record.jobs.get("first job")
    if job is None:
        return ""
    found = [
        name for name in ("claim_token", "lease_seconds") if job.document.get(name)
    ]
    calls = {"heartbeat", "release", "token", "log", "artifacts"} & job.extensions
    shown = ", ".join([*found, *sorted(calls)])
    return f"first job: it has {shown}" if shown else ""


def calls_of_anybody(record: Record) -> str:
    """Return how calls about a job without a right were answered."""
    steps = ("accept with a wrong secret", "finish with a wrong secret")
    return first_of(status_problem(record, step, (401,)) for step in steps)


def unknown_job(record: Record) -> str:
    """Return how an accept of a job that doesn't exist was answered."""
    return status_problem(record, "accept of an unknown job", (404,))


def accept_fails(record: Record) -> str:
    """Return how the first accept was answered."""
    return status_problem(record, "accept", SUCCESS) or reply_problem(record, "accept")


def accept_differs(record: Record) -> str:
    """Return how the repeated accept was answered."""
    return repeat_problem(record, "accept", "accept again")


def unknown_field(record: Record) -> str:
    """Return how an accept with a property of a newer contract was answered."""
    return repeat_problem(record, "accept", "accept with an unknown field")


def handed_out_twice(record: Record) -> str:
    """Return how a pull was answered while the only job was accepted."""
    return status_problem(record, "pull after the accept", (204,))


def finish_fails(record: Record) -> str:
    """Return how the first finish was answered."""
    return status_problem(record, "finish", SUCCESS)


def finish_differs(record: Record) -> str:
    """Return how the repeated finish was answered."""
    return repeat_problem(record, "finish", "finish again")


def result_replaced(record: Record) -> str:
    """Return how a second result was answered, and the first one after it."""
    other = status_problem(record, "finish with another result", (*SUCCESS, 409))
    return other or repeat_problem(record, "finish", "finish after another result")


def handed_out_after_the_end(record: Record) -> str:
    """Return how a pull was answered after the only job had ended."""
    return status_problem(record, "pull after the finish", (204,))


def unaccepted_refused(record: Record) -> str:
    """Return how a finish without an accept was answered."""
    return status_problem(record, "finish without an accept", SUCCESS)


def encoded_path(record: Record) -> str:
    """Return how a call about a job with a slash in its id was answered."""
    return status_problem(record, "accept by a path with %2F", SUCCESS)


def report_refused(record: Record) -> str:
    """Return how a finish with the largest report was answered."""
    return status_problem(record, "finish with a full report", SUCCESS)


def lost_by_restart(record: Record) -> str:
    """Return what a restart has lost."""
    pulled = "pull after the restart"
    problem = first_of(
        (
            repeat_problem(
                record, "accept before the restart", "accept after the restart"
            ),
            repeat_problem(
                record, "finish before the restart", "finish after the restart"
            ),
            status_problem(record, pulled, (200,)),
        )
    )
    ended, came = record.jobs.get("ended job"), record.jobs.get(pulled)
    if not problem and ended is not None and came is not None and ended.id == came.id:
        return f"{pulled}: it brought a job whose finish was acknowledged"
    return problem or status_problem(record, "pull when all has ended", (204,))


def revoked_served(record: Record) -> str:
    """Return how a machine that is revoked was answered."""
    pulled = status_problem(record, "pull after the revocation", (401, 410))
    accept = status_problem(record, "accept after the revocation", (401, 403, *CLOSED))
    return pulled or accept


def license_heartbeat(record: Record) -> str:
    """Return how license heartbeats were answered."""
    step = "license heartbeat"
    broken = record.answers[step].breach("license-heartbeat-reply")
    return first_of(
        (
            status_problem(record, f"{step} with a wrong secret", (401,)),
            status_problem(record, step, (200,)),
            f"{step}: {broken}" if broken else "",
        )
    )
