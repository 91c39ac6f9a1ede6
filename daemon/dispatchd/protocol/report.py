"""Report of an attempt beside its verdict, and chunks of its log (contracts/README.md, logs), with their limits.

A command has written all of it, and it leaves the machine. A report is scrubbed first and cut afterwards, so that
no cut leaves half of a secret.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from attrs import Factory, evolve, frozen

from dispatchd.protocol.job import Json
from dispatchd.protocol.result import Annotation
from dispatchd.protocol.uploads.chunks import packed, unpacked
from dispatchd.redaction.truncate import clip_markdown

MOST_ANNOTATIONS: Final = 200
"""Most annotations that are reported (count): the first ones."""

LONGEST_TEXT: Final = 4000
"""Longest summary, and longest message of an annotation, that is reported (characters)."""

MOST_SPANS: Final = 100
"""Most phases and spans that are reported (count)."""

LONGEST_SPAN_NAME: Final = 100
"""Longest name of a phase or span that is reported (characters)."""

SPAN_KINDS: Final = ("phase", "span")

_LAST_LINE: Final = 2**31 - 1
"""Largest line number: a larger one is no line of a file, and overflows the integers of many readers."""

WITHHELD: Final = (
    "[withheld: this ended while the daemon was away, so what would have to be taken out of it "
    "is not known any more; it is on the machine]"
)


@frozen(kw_only=True)
class RunSpan:
    """Phase or span of a run (`kind`): its start after that of the run's first attempt, and its duration (seconds)."""

    kind: str
    name: str
    start_seconds: float
    duration_seconds: float
    ok: bool = True


@frozen(kw_only=True)
class Report:
    """Report of a job's newest attempt to its source, without secrets. Empty fields are not sent.

    `output` is the end of what the attempt wrote to stdout and stderr. `step_summary` is Markdown, `outputs` are
    values by name.
    """

    output: str = ""
    step_summary: str = ""
    outputs: Mapping[str, str] = Factory(dict)
    annotations: tuple[Annotation, ...] = ()
    spans: tuple[RunSpan, ...] = ()


def shortened(text: str) -> str:
    """Return a text of at most `LONGEST_TEXT` characters."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def step_summary(text: str, scrub: Callable[[str], str]) -> str:
    """Return the step summary as it is reported; empty if the text shows nothing."""
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    return clip_markdown(scrub(text)) if text.strip() else ""


def annotations(
    unscrubbed: Iterable[Annotation], scrub: Callable[[str], str]
) -> tuple[Annotation, ...]:
    """Return annotations as they are reported, in their order. Those with impossible lines are left out."""
    possible = [
        annotation
        for annotation in unscrubbed
        if max(annotation.start_line, annotation.end_line or 0) <= _LAST_LINE
    ]
    return tuple(
        evolve(
            annotation,
            path=shortened(scrub(annotation.path)),
            title=shortened(scrub(annotation.title)),
            message=shortened(scrub(annotation.message)),
        )
        for annotation in possible[:MOST_ANNOTATIONS]
    )


_CONTRACT: Final = "log-request"


@frozen(kw_only=True)
class LogChunk:
    """Part of the log of an attempt: UTF-8 as the command wrote it, without secrets.

    `offset` is its place in the log of that attempt (bytes). `whole` is the SHA-256 of the whole log of the attempt, in
    the chunk with which it ends; empty in all others.
    """

    attempt: int
    offset: int
    data: bytes = b""
    whole: str = ""

    @property
    def end(self) -> int:
        """Place of the first byte after it (bytes)."""
        return self.offset + len(self.data)

    def to_wire(self) -> dict[str, Json]:
        """Return its fields on the wire."""
        fields: dict[str, Json] = {
            "attempt": self.attempt,
            "offset": self.offset,
            **packed(self.data),
        }
        return {**fields, "whole_sha256": self.whole} if self.whole else fields

    @classmethod
    def from_wire(cls, fields: Mapping[str, Json]) -> Self:
        """Return the chunk in a body that keeps the schema.

        Raises:
            ContractViolation: Its data isn't what its length and its hash say.
        """
        return cls(
            attempt=int(str(fields["attempt"])),
            offset=int(str(fields["offset"])),
            data=unpacked(fields, _CONTRACT),
            whole=str(fields.get("whole_sha256") or ""),
        )
