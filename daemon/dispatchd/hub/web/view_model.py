"""Data of a job for the templates: its history, its progress, and its origin."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen

from dispatchd.hub.domain.model import ENDED, WAITING, Attempt, HubJob, State
from dispatchd.hub.web.text import shown
from dispatchd.protocol.report import RunSpan
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


_ID: Final = re.compile(
    r"([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_LONGEST_ID: Final = 24
"""Longest id that a list shows whole (characters), beside that of a UUID."""

_SHORT_SHA: Final = 8
_REFS: Final = ("refs/heads/", "refs/tags/", "refs/")


@frozen(kw_only=True)
class Row:
    """Job in a list."""

    job: HubJob
    about: Sequence[str]
    """Workflow beside a title, command, number, branch, commit and person, of those that there are."""
    short_id: str
    took_s: float | None
    """Time that it has been on machines (seconds); None if it never was."""
    why: str
    """Why it waits, in a sentence; empty if it doesn't wait."""

    @classmethod
    def of(cls, job: HubJob, *, now: float, why: str = "") -> "Row":
        """Return the row of a job at a time (seconds since the epoch)."""
        return cls(
            job=job,
            about=[*_about(job)],
            short_id=short_id(job.id),
            took_s=took_s(job, now),
            why=why,
        )


def short_id(job_id: str) -> str:
    """Return the beginning of a job's id, which commands take too."""
    match = _ID.fullmatch(job_id)
    return match[1] if match else shown(job_id, _LONGEST_ID)


def took_s(job: HubJob, now: float) -> float | None:
    """Return how long a job has been on its machine by a time (seconds); None for one that no machine has or had."""
    if not job.claimed_at or job.state in WAITING:
        return None
    return max(0.0, (job.finished_at or now) - job.claimed_at)


def _about(job: HubJob) -> Iterator[str]:
    document = job.document
    if document.title.strip() and job.workflow:
        yield job.workflow
    if document.command and job.workflow:
        yield f"/{document.command}"
    if document.number:
        yield f"#{document.number}"
    ref = document.ref
    if ref and not (document.number and ref.startswith("refs/pull/")):
        yield next((ref[len(start) :] for start in _REFS if ref.startswith(start)), ref)
    if document.sha:
        yield document.sha[:_SHORT_SHA]
    if document.actor:
        yield f"by {document.actor}"


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


_WIDTH: Final = 1000
"""Width of the bar, in its own unit."""

_LEAST: Final = 6
"""Least width of a part of it, so that it can be seen."""

_MOST_CLAIMS: Final = 10
"""Earlier claims that it shows (count): the newest."""


@frozen(kw_only=True)
class Part:
    """Part of the time of a job, as the bar on its page shows it."""

    kind: str
    """Kind of the part, by which it has its colour."""
    name: str
    seconds: float
    x: int
    width: int


def parts(job: HubJob, attempts: Sequence[Attempt], now: float) -> list[Part]:
    """Return the parts of a job's time until now or its end, in their order (seconds since the epoch)."""
    end = job.finished_at or now
    spans: list[tuple[str, str, float]] = []
    at = job.created_at
    for kind, name, until in _points(job, attempts, end):
        seconds = min(until, end) - at
        if seconds > 0:
            spans.append((kind, name, seconds))
            at = min(until, end)
    whole = sum(seconds for *_, seconds in spans)
    found, x = [], 0
    room = _WIDTH - _LEAST * len(spans)
    for kind, name, seconds in spans:
        width = _LEAST + round(room * seconds / whole)
        found.append(Part(kind=kind, name=name, seconds=seconds, x=x, width=width))
        x += width
    return found


_MOST_NESTED: Final = 30
"""Phases and spans of a run that the page shows (count): the first."""


@frozen(kw_only=True)
class Nested:
    """Phase or span of a run, below the part of the bar in which it lies."""

    span: RunSpan
    x: int
    width: int


@frozen(kw_only=True)
class NestedList:
    """Phases and spans of a run, and how many more there are than are shown (count)."""

    shown: Sequence[Nested]
    more: int


def nested(bar: Sequence[Part], spans: Sequence[RunSpan]) -> NestedList:
    """Return the phases and spans of a run as bars within the part `running`; those behind its end are cut."""
    running = next((part for part in reversed(bar) if part.kind == "running"), None)
    if running is None:
        return NestedList(shown=(), more=0)
    end = running.x + running.width
    scale = running.width / running.seconds
    found = []
    for span in spans[:_MOST_NESTED]:
        x = min(running.x + round(scale * span.start_seconds), end - _LEAST)
        width = max(_LEAST, round(scale * span.duration_seconds))
        found.append(Nested(span=span, x=x, width=min(width, end - x)))
    return NestedList(shown=found, more=len(spans) - len(found))


def _points(
    job: HubJob, attempts: Sequence[Attempt], end: float
) -> Iterator[tuple[str, str, float]]:
    """Yield kind, name and end of each part of a job's time, in their order."""
    # The newest claim is over where the job was queued again, or has ended while it was.
    is_over = bool(attempts) and 0 < attempts[-1].ended_at < end
    is_held = bool(job.claimed_at) and job.state not in WAITING and not is_over
    earlier = attempts[:-1] if is_held else attempts
    for attempt in earlier[-_MOST_CLAIMS:]:
        yield "waiting", "waiting", attempt.claimed_at
        yield "claim", f"claim {attempt.number}", attempt.ended_at or end
    yield "waiting", "waiting", job.claimed_at if is_held else end
    yield "handed-over", "handed over", job.accepted_at or end
    if job.state is State.ACCEPTED:
        yield "starting", "starting", end
    yield "starting", "starting", job.started_at or job.accepted_at
    is_parked = job.state is State.NEEDS_ATTENTION
    yield "running", "running", (is_parked and job.parked_at) or job.run_ended_at or end
    yield ("parked", "parked", end) if is_parked else ("reporting", "reporting", end)


def origin(job: HubJob, links: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return the origin of a job: its event, actor and subject, as a label, a text and an address, which may be empty."""
    document = job.document
    found: Iterable[tuple[str, str | int, str]] = (
        ("Event", document.event, ""),
        ("Action", document.action, ""),
        ("Asked for by", document.actor, ""),
        ("Repository", document.repository, "repository"),
        ("Pull request", document.pull_request, "pull_request"),
        ("Issue", document.issue, "issue"),
        ("Ref", document.ref, ""),
        ("Commit", document.sha, "sha"),
        ("Check", "check run" if "check" in links else "", "check"),
        ("Command", document.command, ""),
        ("Run to cancel", document.target, ""),
        ("Delivery", document.delivery_id, ""),
    )
    return [
        (label, str(value), links.get(name, ""))
        for label, value, name in found
        if value
    ]


def title(job: HubJob) -> str:
    """Return the title of a job: what it is about, or else its workflow, its command or its id."""
    return job.document.title.strip() or job.workflow or job.document.command or job.id


def has_ended(job: HubJob) -> bool:
    """Return whether a job has ended."""
    return job.state in ENDED
