"""Progress that a run reports while it runs: lines of `$DISPATCHD_EVENTS` (contracts/README.md, run-event).

The command writes the file, so a line can be anything. A line that isn't an event is counted and
skipped: a typo in a progress line must never cost an hour of work. A schema validator would take a
millisecond for each line. This takes microseconds, and a test shows that both agree.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Self

from attrs import define, evolve, field, frozen
from typing_extensions import override

from dispatchd.protocol.times import duration

LONGEST_LINE: Final = 64 * 1024
"""Longest line (bytes); a longer one is no event."""

_NAMES_KEPT: Final = 100
"""Most phases, spans and follow-ups that are stored (count): the newest of each."""

_LONGEST_STORED: Final = 4 * 1024
"""Longest part of a text that is stored (characters): a secret at the end of what is shown is whole in it."""

_LAST_WORD: Final = re.compile(r"(?<=\s)\S+\Z")
"""Word at the end of a part, which may be half of a secret: what is shown shrinks where spaces are collapsed."""

_LONGEST_NAME: Final = 200
"""Longest part of a name that is shown (characters)."""

_LONGEST_WORDS: Final = 2000
"""Longest part of a reason or a follow-up that is shown (characters)."""

_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII
)
"""Form of a time in the schema: ISO 8601 with an offset."""


@frozen(kw_only=True)
class Progress:
    """Progress of a run, in steps of its own (counts)."""

    completed: int
    in_progress: int
    total: int

    @override
    def __str__(self) -> str:
        """Return the progress in a few words."""
        return f"{self.completed} of {self.total} done, {self.in_progress} under way"


@frozen(kw_only=True)
class RunPhase:
    """Phase of a run, and its start where the run reported one."""

    name: str
    at: datetime | None


@frozen(kw_only=True)
class Span:
    """Piece of work that has ended."""

    name: str
    started_at: datetime
    ended_at: datetime
    ok: bool

    @property
    def duration_s(self) -> float:
        """Duration (seconds)."""
        return (self.ended_at - self.started_at).total_seconds()


@define
class Story:
    """Summary of the events of an attempt. Fed line by line, in order.

    Its texts are as the run wrote them, because a secret is found in nothing else; `shown` makes lines of them.
    """

    phases: list[RunPhase] = field(factory=list)
    progress: Progress | None = None
    progress_events: int = 0
    spans: list[Span] = field(factory=list)
    follow_ups: list[str] = field(factory=list)
    blocked: str | None = None
    """Reason why the run asks for a person; the last one counts."""
    events: int = 0
    malformed: int = 0
    left_out: int = 0
    """Lines that were not read, because there were too many (count)."""
    bytes_left_out: int = 0
    """Size of the file behind the part that is read (bytes)."""

    @property
    def last_span(self) -> Span | None:
        """Piece of work that was reported last; None for none."""
        return self.spans[-1] if self.spans else None

    def feed(self, line: bytes) -> None:
        """Take one line, without its line end."""
        if not line.strip():
            return
        try:
            _take(self, line)
        except (ValueError, TypeError, LookupError, RecursionError):
            self.malformed += 1
        else:
            self.events += 1

    def leave_out(self, lines: int) -> None:
        """Count lines that are not read."""
        self.left_out += lines

    def leave_unread(self, size: int) -> None:
        """Record the size of the file behind the part that is read (bytes)."""
        self.bytes_left_out = size

    def shown(self, scrub: Callable[[str], str] = str) -> Self:
        """Return the story with each text as one line that isn't too long, and of its spans the last one.

        `scrub` removes the secrets before a text is cut.
        """

        def line(text: str, longest: int) -> str:
            return (one_line(text, scrub) or text)[:longest]

        blocked = self.blocked
        return evolve(
            self,
            phases=[
                evolve(phase, name=line(phase.name, _LONGEST_NAME))
                for phase in self.phases
            ],
            spans=[
                evolve(span, name=line(span.name, _LONGEST_NAME))
                for span in self.spans[-1:]
            ],
            follow_ups=[line(task, _LONGEST_WORDS) for task in self.follow_ups],
            blocked=blocked and line(blocked, _LONGEST_WORDS),
        )

    def where(self) -> str:
        """Return the last known state of the run, for somebody who asks why it hung; empty if it reported none."""
        parts = []
        if self.phases:
            parts.append(f"in phase {self.phases[-1].name}")
        if self.last_span is not None:
            how = "" if self.last_span.ok else " (failed)"
            parts.append(f"last completed span {self.last_span.name}{how}")
        timings = self.timings()
        if timings:
            parts.append(f"phases before: {timings}")
        return "; ".join(parts)

    def timings(self) -> str:
        """Return the durations of the phases that ended, such as `build 3.2 s, test 40.0 s`; only of known times."""
        return ", ".join(
            f"{phase.name} {duration((after.at - phase.at).total_seconds())}"
            for phase, after in zip(self.phases, self.phases[1:], strict=False)
            if phase.at is not None and after.at is not None
        )


def one_line(text: str, scrub: Callable[[str], str]) -> str:
    """Return a text as one line without secrets; empty for white space."""
    # Words that are joined may make a secret.
    return scrub(" ".join(scrub(text).split()))


def _take(story: Story, line: bytes) -> None:
    if len(line) > LONGEST_LINE:
        message = "too long"
        raise ValueError(message)
    event = json.loads(line)
    _KINDS[event["type"]](story, event)


def _phase(story: Story, event: Mapping[str, Any]) -> None:
    at = _instant(event["at"]) if "at" in event else None
    story.phases.append(RunPhase(name=_text(event["name"]), at=at))
    del story.phases[:-_NAMES_KEPT]


def _progress(story: Story, event: Mapping[str, Any]) -> None:
    story.progress = Progress(
        completed=_count(event["completed"]),
        in_progress=_count(event["in_progress"]),
        total=_count(event["total"]),
    )
    story.progress_events += 1


def _span(story: Story, event: Mapping[str, Any]) -> None:
    if type(event["ok"]) is not bool:
        raise TypeError
    story.spans.append(
        Span(
            name=_text(event["name"]),
            started_at=_instant(event["started_at"]),
            ended_at=_instant(event["ended_at"]),
            ok=event["ok"],
        )
    )
    del story.spans[:-_NAMES_KEPT]


def _follow_up(story: Story, event: Mapping[str, Any]) -> None:
    story.follow_ups.append(_text(event["text"]))
    del story.follow_ups[:-_NAMES_KEPT]


def _block(story: Story, event: Mapping[str, Any]) -> None:
    story.blocked = _text(event["reason"])


_KINDS: Final[Mapping[str, Callable[[Story, Mapping[str, Any]], None]]] = (
    MappingProxyType(
        {
            "phase": _phase,
            "progress": _progress,
            "span": _span,
            "follow_up": _follow_up,
            "block": _block,
        }
    )
)


def _text(value: object) -> str:
    if type(value) is not str or not value:
        raise TypeError
    head = value[:_LONGEST_STORED]
    if len(head) < len(value):
        head = _LAST_WORD.sub("", head) or head
    return head


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _instant(value: object) -> datetime:
    if type(value) is not str or not _INSTANT.fullmatch(value):
        raise TypeError
    return datetime.fromisoformat(value)
