"""Trace of a job from pull to finish, one for each job, made from its record alone.

Nothing is random and nothing is stored. Ids are hashes of fields that a record has from the beginning, so a
daemon that is restarted in the middle of a job continues the same trace. A trace context that comes with a job
(a `traceparent` among a webhook's headers) is ignored: a stranger must not write into this machine's traces,
nor decide which of them are sampled. A span holds no text of a command.
"""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen

from dispatchd.agent.domain.job import STEPS_KEPT, Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.protocol.outcome import FailureCause, Outcome

_LONGEST_VALUE: Final = 256
"""Longest text of an attribute (characters): most of it comes from the endpoint."""

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
"""Sizes of ids (W3C Trace Context, 3.2.2)."""

_NAMES: Final[Mapping[Phase, str]] = {
    Phase.PENDING_ACCEPT: "accept",
    Phase.ACCEPTED: "wait",
    Phase.RETRY_WAIT: "wait",
    Phase.NEEDS_ATTENTION: "park",
    Phase.FINISHING: "report",
}
"""Span names of phases. Running is shown by the spans of the attempts."""

_REFUSALS: Final = frozenset(
    {Event.ACCEPT_REFUSED, Event.LEASE_LOST, Event.FINISH_REFUSED}
)
"""Ends of a phase that are an error of its span."""

_BAD: Final = frozenset({Outcome.FAILED, Outcome.ABORTED, Outcome.REJECTED})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Attributes = Mapping[str, str | int]


@frozen(kw_only=True)
class Span:
    """Span of a job's trace: a period of its time.

    Ids are lower-case hex; `parent_id` is empty for the root. `error` is the kind of failure, a word of a
    closed list; empty for no failure.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: datetime
    end: datetime
    attributes: Attributes
    error: str = ""

    @property
    def start_ns(self) -> int:
        """Nanoseconds from the epoch to the start."""
        return _nanoseconds(self.start)

    @property
    def end_ns(self) -> int:
        """Nanoseconds from the epoch to the end."""
        return _nanoseconds(self.end)


@frozen(kw_only=True)
class _Stay:
    """One phase of a job, from its beginning to the event that ended it (None: it has not ended)."""

    phase: Phase
    start: datetime
    end: datetime
    ended_by: Event | None = None


def traceparent(record: TrackedJob, attempt_number: int) -> str:
    """Return the context in which an attempt runs (W3C Trace Context level 1, `traceparent`).

    Its parent id is that of the attempt's span, so that spans of the command's own hang below it.
    """
    span_id = _span_id(record, _attempt_name(attempt_number))
    return f"00-{_trace_id(record)}-{span_id}-01"


def spans_of(record: TrackedJob) -> tuple[Span, ...]:
    """Return the spans of a record: the root span `job`, and its children by start time.

    Each child lies within the root, even if the clock was set between two boots. A span that isn't over ends
    with the record's last change. A record stores only its last steps; earlier ones have no span.
    """
    root = _root(record)
    children = [*_stays_as_spans(record, root), *_attempts_as_spans(record, root)]
    return (root, *sorted(children, key=lambda span: (span.start, span.end)))


def _root(record: TrackedJob) -> Span:
    job, verdict = record.job, record.verdict
    outcome = verdict.outcome if verdict is not None else None
    cause = verdict.cause if verdict is not None else None
    error = (cause or outcome or "") if outcome in _BAD else ""
    left_at = next(
        (step.at for step in record.steps if step.phase is Phase.HISTORY),
        record.changed_at,
    )
    return Span(
        name="job",
        trace_id=_trace_id(record),
        span_id=_span_id(record, "job"),
        parent_id="",
        start=record.received_at,
        end=max(record.received_at, left_at),
        attributes=_attributes(
            record,
            {
                "dispatchd.workflow": job.workflow,
                "dispatchd.repository": job.repository,
                "dispatchd.event": job.event,
                "dispatchd.outcome": outcome or "",
                "dispatchd.cause": cause or "",
            },
        ),
        error=str(error),
    )


def _stays_as_spans(record: TrackedJob, root: Span) -> Iterator[Span]:
    seen: dict[str, int] = {}
    for stay in _stays(record):
        name = _NAMES.get(stay.phase)
        # A job that is rejected at once is never accepted, so there was no wait for an accept.
        if name is None or stay.ended_by is Event.REJECTED:
            continue
        seen[name] = seen.get(name, 0) + 1
        refused = stay.ended_by if stay.ended_by in _REFUSALS else None
        yield _child(
            root,
            name=name,
            span_id=_span_id(record, f"{name} {seen[name]}"),
            times=(stay.start, stay.end),
            attributes=_attributes(record, {}),
            error=str(refused or ""),
        )


def _attempts_as_spans(record: TrackedJob, root: Span) -> Iterator[Span]:
    for attempt in record.attempts:
        if _is_of_an_earlier_claim(attempt, record):
            continue
        name = _attempt_name(attempt.number)
        yield _child(
            root,
            name=name,
            span_id=_span_id(record, name),
            times=(attempt.started_at, attempt.ended_at or root.end),
            attributes=_attributes(
                record,
                {
                    "dispatchd.attempt": attempt.number,
                    "dispatchd.cause": attempt.cause or "",
                },
            ),
            error=_error_of(attempt.cause),
        )


def _child(
    root: Span,
    *,
    name: str,
    span_id: str,
    times: tuple[datetime, datetime],
    attributes: Attributes,
    error: str,
) -> Span:
    start = min(max(times[0], root.start), root.end)
    return Span(
        name=name,
        trace_id=root.trace_id,
        span_id=span_id,
        parent_id=root.span_id,
        start=start,
        end=min(max(times[1], start), root.end),
        attributes=attributes,
        error=error,
    )


def _stays(record: TrackedJob) -> Iterator[_Stay]:
    """Yield the phases of a job, oldest first, as far back as its record goes."""
    whole = len(record.steps) < STEPS_KEPT
    phase = Phase.PENDING_ACCEPT if whole else record.steps[0].phase
    # The record doesn't say since when the job had been in the phase of its oldest stored step.
    start = record.received_at if whole else None
    for step in record.steps:
        if step.phase is not phase:
            if start is not None:
                yield _Stay(phase=phase, start=start, end=step.at, ended_by=step.event)
            phase, start = step.phase, step.at
        if phase is Phase.HISTORY:
            # What was handed out again is not told once more.
            break
    if start is not None and phase is not Phase.HISTORY:
        yield _Stay(phase=phase, start=start, end=record.changed_at)


def _is_of_an_earlier_claim(attempt: Attempt, record: TrackedJob) -> bool:
    """Return whether an attempt belongs to an earlier trace: the job was handed back since, and came again."""
    return attempt.ended_at is not None and attempt.ended_at <= record.received_at


def _error_of(cause: FailureCause | None) -> str:
    # A command that asks for a person has not failed.
    return "" if cause is None or cause is FailureCause.NEEDS_INPUT else cause.value


def _attempt_name(number: int) -> str:
    return f"attempt {number}"


def _attributes(record: TrackedJob, values: Attributes) -> Attributes:
    attributes = {"dispatchd.job.id": record.job.id, **values}
    return {name: _plain(value) for name, value in attributes.items() if value != ""}


def _plain(value: str | int) -> str | int:
    """Return a value that every receiver can take: a text is cut, and invalid Unicode in it is replaced."""
    if isinstance(value, int):
        return value
    return str(value)[:_LONGEST_VALUE].encode("utf-8", "replace").decode("utf-8")


def _trace_id(record: TrackedJob) -> str:
    return _hashed(_origin(record), _TRACE_ID_BYTES)


def _span_id(record: TrackedJob, name: str) -> str:
    return _hashed(f"{_origin(record)}\0{name}", _SPAN_ID_BYTES)


def _origin(record: TrackedJob) -> str:
    # A job that was handed back and comes again has another time, and therefore another trace.
    received = record.received_at.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{received}\0{record.job.id}"


def _hashed(text: str, size: int) -> str:
    """Return the first bytes of a text's SHA-256 as hex; never all zero, which is no id (W3C Trace Context)."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:size]) or 1
    return f"{number:0{2 * size}x}"


def _nanoseconds(at: datetime) -> int:
    """Return the nanoseconds since the epoch, exactly; 0 for a time before it, which no trace can express."""
    return max(0, (at - _EPOCH) // timedelta(microseconds=1) * 1000)
