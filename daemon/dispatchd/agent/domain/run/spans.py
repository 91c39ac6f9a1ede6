"""Phases and spans of a run's events, as its report has them: placed in the time of the run, without secrets."""

from collections.abc import Callable, Iterator
from datetime import datetime

from attrs import evolve, frozen

from dispatchd.agent.domain.run.events import Story
from dispatchd.protocol.report import LONGEST_SPAN_NAME, MOST_SPANS, RunSpan


@frozen
class _Piece:
    name: str
    kind: str
    begins: datetime
    ends: datetime
    ok: bool = True


def reported(
    story: Story, begins: datetime, ends: datetime, scrub: Callable[[str], str]
) -> tuple[RunSpan, ...]:
    """Return the phases and spans that are reported, by their start: the phases, and as many of the newest spans as fit.

    What the run says lies outside of its time is cut, or left out.

    Args:
        story: The events of the newest attempt.
        begins: Start of the run's first attempt.
        ends: End of the newest attempt.
        scrub: Removes the secrets of a name, before it is cut.
    """
    phases = [*_phases(story, ends)]
    spans = [
        _Piece(span.name, "span", span.started_at, span.ended_at, span.ok)
        for span in story.spans
    ]
    room = max(0, MOST_SPANS - len(phases))
    pieces = [*phases, *(spans[-room:] if room else ())]
    placed = (
        _placed(evolve(piece, name=_line(scrub(piece.name))), begins, ends)
        for piece in pieces
    )
    return tuple(
        sorted((span for span in placed if span), key=lambda span: span.start_seconds)
    )


def _phases(story: Story, ends: datetime) -> Iterator[_Piece]:
    """Yield the phases of known times; each ends where the next one begins."""
    nexts = [*(phase.at for phase in story.phases[1:]), ends]
    for phase, until in zip(story.phases, nexts, strict=False):
        if phase.at is not None and until is not None:
            yield _Piece(phase.name, "phase", phase.at, until)


def _placed(piece: _Piece, begins: datetime, ends: datetime) -> RunSpan | None:
    start, end = max(piece.begins, begins), min(piece.ends, ends)
    if end < start or not piece.name:
        return None
    return RunSpan(
        kind=piece.kind,
        name=piece.name,
        start_seconds=round((start - begins).total_seconds(), 3),
        duration_seconds=round((end - start).total_seconds(), 3),
        ok=piece.ok,
    )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return (
        line if len(line) <= LONGEST_SPAN_NAME else line[: LONGEST_SPAN_NAME - 1] + "…"
    )
