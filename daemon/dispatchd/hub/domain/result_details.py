"""Details of a result, beside summary and output: step summary, outputs, annotations, spans (contracts/README.md).

All of it comes from untrusted programs. Invalid parts are left out, and nothing is refused: a job's end matters more
than its details.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import asdict, field, frozen

from dispatchd.protocol.job import Json
from dispatchd.protocol.report import (
    LONGEST_SPAN_NAME,
    MOST_SPANS,
    SPAN_KINDS,
    RunSpan,
    shortened,
)
from dispatchd.protocol.result import Annotation
from dispatchd.redaction.truncate import MOST_BYTES, clip_markdown, size

NAMES: Final = (
    "result_step_summary",
    "result_outputs",
    "result_annotations",
    "result_spans",
)
"""Names of the details, on the wire and in the stored document."""

_OUTPUTS_BYTES: Final = 64 * 1024
"""Largest size of the stored names and values of outputs (bytes)."""

_ANNOTATIONS: Final = 200
"""Most annotations that are stored (count)."""

_LINE_MOST: Final = 2**31 - 1
_PATH_MOST: Final = 1000
_TITLE_MOST: Final = 255
"""Longest path and title of an annotation (characters)."""

_LONGEST_S: Final = 1e9
"""Longest time in a run (seconds)."""

_LEVELS: Final = ("notice", "warning", "failure")


@frozen(kw_only=True)
class Details:
    """Reported details; empty for what wasn't reported."""

    step_summary: str = ""
    """Step summary: Markdown of at most 65,535 bytes."""
    outputs: Mapping[str, str] = field(factory=dict)
    annotations: tuple[Annotation, ...] = ()
    spans: tuple[RunSpan, ...] = ()


def kept_details(body: Mapping[str, Json]) -> str:
    """Return the details of a finish to store, as a JSON object; empty for none."""
    details = _details(body)
    document: dict[str, Json] = {
        "result_step_summary": details.step_summary,
        "result_outputs": {**details.outputs},
        "result_annotations": [
            asdict(annotation) for annotation in details.annotations
        ],
        "result_spans": [asdict(span) for span in details.spans],
    }
    said = {name: value for name, value in document.items() if value}
    return json.dumps(said, ensure_ascii=False) if said else ""


def read_details(text: str) -> Details:
    """Return the details of a job (`HubJob.result_details`)."""
    try:
        document = json.loads(text or "{}")
    except ValueError:
        return Details()
    return _details(document) if isinstance(document, dict) else Details()


def _details(document: Mapping[str, Json]) -> Details:
    summary, outputs, annotations, spans = (document.get(name) for name in NAMES)
    remarks = (_annotation(item) for item in _listed(annotations))
    pieces = (_span(item) for item in _listed(spans))
    return Details(
        step_summary=clip_markdown(summary, MOST_BYTES)
        if isinstance(summary, str)
        else "",
        outputs=dict(_outputs(outputs)) if isinstance(outputs, dict) else {},
        annotations=tuple(islice(filter(None, remarks), _ANNOTATIONS)),
        spans=tuple(islice(filter(None, pieces), MOST_SPANS)),
    )


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _outputs(outputs: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    room = _OUTPUTS_BYTES
    for name, value in outputs.items():
        if not isinstance(value, str):
            continue
        room -= size(name) + size(value)
        if room < 0:
            return
        yield name, value


def _annotation(item: Json) -> Annotation | None:
    if not isinstance(item, dict):
        return None
    path, level, message = (item.get(name) for name in ("path", "level", "message"))
    start = _line(item.get("start_line"))
    if not (
        isinstance(path, str)
        and isinstance(message, str)
        and path
        and message
        and start
    ):
        return None
    title = item.get("title")
    return Annotation(
        path=path[:_PATH_MOST],
        start_line=start,
        end_line=max(start, _line(item.get("end_line"))),
        level=str(level) if level in _LEVELS else "notice",
        title=title[:_TITLE_MOST] if isinstance(title, str) else "",
        message=shortened(message),
    )


def _span(item: Json) -> RunSpan | None:
    if not isinstance(item, dict):
        return None
    name, kind = item.get("name"), item.get("kind")
    start, long = (
        _seconds(item.get("start_seconds")),
        _seconds(item.get("duration_seconds")),
    )
    if not (isinstance(name, str) and name and start is not None and long is not None):
        return None
    return RunSpan(
        kind=str(kind) if kind in SPAN_KINDS else SPAN_KINDS[-1],
        name=name[:LONGEST_SPAN_NAME],
        start_seconds=start,
        duration_seconds=long,
        ok=item.get("ok") is not False,
    )


def _seconds(value: Json) -> float | None:
    # The exact type: True is an int for isinstance.
    if type(value) not in {int, float}:
        return None
    # Before it is made a float, of which the largest is smaller than some integers.
    return float(value) if 0 <= value <= _LONGEST_S else None  # type: ignore[arg-type,operator]  # the line above holds it


def _line(value: Json) -> int:
    """Return a valid line number, or 0."""
    # The exact type: True is an int for isinstance.
    return value if type(value) is int and 0 < value <= _LINE_MOST else 0
