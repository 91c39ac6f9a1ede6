"""Details of a result, beside summary and output: step summary, outputs, annotations (contracts/README.md).

All of it comes from untrusted programs. Invalid parts are left out, and nothing is refused: a job's end matters more
than its details.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import asdict, field, frozen

from dispatchd.protocol.job import Json
from dispatchd.protocol.report import shortened
from dispatchd.protocol.result import Annotation
from dispatchd.redaction.truncate import MOST_BYTES, clip_markdown, size

NAMES: Final = ("result_step_summary", "result_outputs", "result_annotations")
"""Names of the details, on the wire and in the stored document."""

_OUTPUTS_BYTES: Final = 64 * 1024
"""Largest size of the stored names and values of outputs (bytes)."""

_ANNOTATIONS: Final = 200
"""Most annotations that are stored (count)."""

_LINE_MOST: Final = 2**31 - 1
_PATH_MOST: Final = 1000
_TITLE_MOST: Final = 255
"""Longest path and title of an annotation (characters)."""

_LEVELS: Final = ("notice", "warning", "failure")


@frozen(kw_only=True)
class Details:
    """Reported details; empty for what wasn't reported."""

    step_summary: str = ""
    """Step summary: Markdown of at most 65,535 bytes."""
    outputs: Mapping[str, str] = field(factory=dict)
    annotations: tuple[Annotation, ...] = ()


def kept_details(body: Mapping[str, Json]) -> str:
    """Return the details of a finish to store, as a JSON object; empty for none."""
    details = _details(body)
    document: dict[str, Json] = {
        "result_step_summary": details.step_summary,
        "result_outputs": {**details.outputs},
        "result_annotations": [
            asdict(annotation) for annotation in details.annotations
        ],
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
    summary, outputs, annotations = (document.get(name) for name in NAMES)
    listed = annotations if isinstance(annotations, list) else []
    valid = (made for item in listed if (made := _annotation(item)) is not None)
    return Details(
        step_summary=clip_markdown(summary, MOST_BYTES)
        if isinstance(summary, str)
        else "",
        outputs=dict(_outputs(outputs)) if isinstance(outputs, dict) else {},
        annotations=tuple(islice(valid, _ANNOTATIONS)),
    )


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


def _line(value: Json) -> int:
    """Return a valid line number, or 0."""
    # The exact type: True is an int for isinstance.
    return value if type(value) is int and 0 < value <= _LINE_MOST else 0
