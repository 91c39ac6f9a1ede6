"""Phases and spans of a run's events, as its report has them: placed in the time of the run, without secrets."""

from collections.abc import Callable, Iterator
from datetime import datetime

from attrs import evolve, frozen

from dispatchd.agent.domain.run.events import Story, one_line
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

    What reaches out of the time of the run is cut; what lies outside of it is left out.

    Args:
        story: The events of the newest attempt.
        begins: Start of the run's first attempt.
        ends: End of the newest attempt.
        scrub: Removes the secrets of a name, before it is cut.
    """
    phases = [*_within(begins, ends, _phases(story, ends))]
    spans = [*_within(begins, ends, _spans(story))]
    room = max(0, MOST_SPANS - len(phases))
    pieces = [*phases[-MOST_SPANS:], *spans[max(0, len(spans) - room) :]]
    named = (evolve(piece, name=_name(piece.name, scrub)) for piece in pieces)
    found = [_placed(piece, begins) for piece in named if piece.name]
    return tuple(sorted(found, key=lambda span: span.start_seconds))


def _phases(story: Story, ends: datetime) -> Iterator[_Piece]:
    """Yield the phases of known times; each ends where the next one begins."""
    nexts = [*(phase.at for phase in story.phases[1:]), ends]
    for phase, until in zip(story.phases, nexts, strict=False):
        if phase.at is not None and until is not None:
            yield _Piece(phase.name, "phase", phase.at, until)


def _spans(story: Story) -> Iterator[_Piece]:
    for span in story.spans:
        yield _Piece(span.name, "span", span.started_at, span.ended_at, span.ok)


def _within(
    begins: datetime, ends: datetime, pieces: Iterator[_Piece]
) -> Iterator[_Piece]:
    """Yield the parts of pieces that lie between two times."""
    for piece in pieces:
        start, end = max(piece.begins, begins), min(piece.ends, ends)
        if start <= end:
            yield evolve(piece, begins=start, ends=end)


def _placed(piece: _Piece, begins: datetime) -> RunSpan:
    return RunSpan(
        kind=piece.kind,
        name=piece.name,
        start_seconds=round((piece.begins - begins).total_seconds(), 3),
        duration_seconds=round((piece.ends - piece.begins).total_seconds(), 3),
        ok=piece.ok,
    )


def _name(text: str, scrub: Callable[[str], str]) -> str:
    name = one_line(text, scrub)
    if len(name) <= LONGEST_SPAN_NAME:
        return name
    return name[: LONGEST_SPAN_NAME - 1] + "…"
