"""Log keys that describe a job."""

from dispatchd.agent.domain.job import TrackedJob


def job_context(record: TrackedJob) -> dict[str, object]:
    """Return the log keys of a tracked job, in order."""
    context: dict[str, object] = {
        "job_id": record.job.id,
        "workflow": record.job.workflow or record.job.command,
    }
    if record.attempt is not None:
        context["attempt"] = record.attempt.number
    if record.verdict is not None:
        context["outcome"] = record.verdict.outcome
        context["cause"] = record.verdict.cause
    return context
