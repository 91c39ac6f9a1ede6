"""Data of a job for the templates: its history, its progress, and its origin."""

import json
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from dispatchd.hub.domain.model import ENDED, Attempt, HubJob
from dispatchd.hub.web.text import shown
from dispatchd.protocol.times import duration


@frozen
class Step:
    """Step in the history of a job; `at` in seconds since the epoch."""

    at: float
    what: str
    machine: str = ""
    detail: str = ""


@frozen
class Progress:
    """Progress of a run, in its own steps (count)."""

    completed: int
    in_progress: int
    total: int

    @classmethod
    def of(cls, job: HubJob) -> "Progress | None":
        """Return the newest progress that a machine has reported, or None."""
        document = json.loads(job.progress or "null")
        if not isinstance(document, dict):
            return None
        counts = [document.get(name) for name in ("completed", "in_progress", "total")]
        numbers = [count for count in counts if isinstance(count, int)]
        return cls(*numbers) if len(numbers) == len(counts) else None


def steps(job: HubJob, attempts: Sequence[Attempt]) -> list[Step]:
    """Return the history of a job, oldest step first."""
    return sorted(_steps(job, attempts), key=lambda step: step.at)


def _steps(job: HubJob, attempts: Sequence[Attempt]) -> Iterator[Step]:
    yield Step(job.created_at, "Submitted")
    for attempt in attempts:
        waited = duration(attempt.claimed_at - job.created_at)
        detail = f"{waited} after it was submitted" if attempt.number == 1 else ""
        yield Step(attempt.claimed_at, "Claimed by", attempt.machine, detail)
        if attempt.outcome == "released":
            yield Step(attempt.ended_at, "Handed back by", attempt.machine)
        elif attempt.outcome == "expired":
            detail = "its lease was over"
            yield Step(
                attempt.ended_at, "Not heard of any more:", attempt.machine, detail
            )
    if job.accepted_at:
        detail = f"run {shown(job.run_id, 200)}" if job.run_id else ""
        yield Step(job.accepted_at, "Accepted by", job.machine, detail)
    if job.finished_at:
        began = job.accepted_at
        detail = f"{duration(job.finished_at - began)} after it was accepted"
        yield Step(job.finished_at, "Ended", detail=detail if began else "")


def origin(job: HubJob) -> list[tuple[str, str]]:
    """Return the origin of a job: its event, actor and subject, as pairs of a label and a text."""
    document = job.document
    pairs: Iterable[tuple[str, str | int]] = (
        ("Event", document.event),
        ("Action", document.action),
        ("Asked for by", document.actor),
        ("Repository", document.repository),
        ("Pull request", document.pull_request),
        ("Issue", document.issue),
        ("Ref", document.ref),
        ("Commit", document.sha),
        ("Command", document.command),
        ("Run to cancel", document.target),
        ("Delivery", document.delivery_id),
    )
    return [(label, str(value)) for label, value in pairs if value]


def title(job: HubJob) -> str:
    """Return the title of a job: its workflow, or else its command or its id."""
    return job.workflow or job.document.command or job.id


def has_ended(job: HubJob) -> bool:
    """Return whether a job has ended."""
    return job.state in ENDED
