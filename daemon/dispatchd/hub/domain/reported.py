"""Machines' reports about jobs, in the form that the hub stores: long texts are cut, and never refused.

The agent cuts them before (contracts/README.md, limits); other clients may send anything.
"""

import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import Final

from dispatchd.hub.domain.model import Result, Standing
from dispatchd.hub.domain.result_details import kept_details
from dispatchd.protocol.job import Json
from dispatchd.protocol.report import LONGEST_TEXT, MOST_ANNOTATIONS, MOST_SPANS

_LONGEST_OUTPUT: Final = 20_000
"""Longest output that is stored (characters): the 16,000 of the contract and its first line."""

_LONGEST_CAUSE: Final = 200
"""Longest cause that is stored (characters): it is a word, perhaps one of a newer release."""

_MOST_OUTPUTS: Final = 100
"""Most outputs that are stored (count)."""

_TEXTS: Final = (
    "reason",
    "result_summary",
    "result_cause",
    "result_output",
    "result_step_summary",
)
_OF_ANNOTATION: Final = (
    "path",
    "start_line",
    "end_line",
    "level",
    "title",
    "message",
)

_OF_SPAN: Final = ("kind", "name", "start_seconds", "duration_seconds", "ok")

_HALF: Final = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which UTF-8 can't hold; JSON can, as an escape."""

_STEPS: Final = ("completed", "in_progress", "total")
_MOST_STEPS: Final = 2**53 - 1
"""Largest number of steps that every reader of JSON knows (RFC 8259, 6)."""


def result_of(body: Mapping[str, Json]) -> Result:
    """Return the result in the body of a finish."""
    return Result(
        status=str(body["result_status"]),
        summary=_text(body, "result_summary", LONGEST_TEXT),
        cause=_text(body, "result_cause", _LONGEST_CAUSE),
        output=_text(body, "result_output", _LONGEST_OUTPUT),
        details=kept_details(body),
    )


def standing_of(body: Mapping[str, Json]) -> Standing:
    """Return the state of a job on its machine from the body of a heartbeat."""
    progress = body.get("progress")
    return Standing(
        phase=str(body["phase"]),
        reason=_text(body, "reason", LONGEST_TEXT),
        progress=_progress(progress) if isinstance(progress, dict) else "",
        parked=str(body.get("parked") or ""),
    )


def with_whole_characters(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return a report whose texts can be stored: half of a surrogate pair becomes U+FFFD, and nothing is refused for it."""
    return {
        name: _whole(value) if name in _TEXTS else value for name, value in body.items()
    }


def without_excess(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return the body of a finish that can be stored, without what is over the limits, before it is validated."""
    trimmed = with_whole_characters(body)
    outputs, annotations, spans = (
        trimmed.get(name)
        for name in ("result_outputs", "result_annotations", "result_spans")
    )
    if isinstance(outputs, dict):
        trimmed["result_outputs"] = {
            _HALF.sub("\ufffd", name): _whole(value)
            for name, value in islice(outputs.items(), _MOST_OUTPUTS)
        }
    if isinstance(annotations, list):
        trimmed["result_annotations"] = [
            _known(item, _OF_ANNOTATION) for item in annotations[:MOST_ANNOTATIONS]
        ]
    if isinstance(spans, list):
        trimmed["result_spans"] = [
            _known(item, _OF_SPAN) for item in spans[:MOST_SPANS]
        ]
    return trimmed


def _known(item: Json, names: tuple[str, ...]) -> Json:
    """Return an item of a list without unknown properties."""
    if not isinstance(item, dict):
        return item
    return {name: _whole(item[name]) for name in names if name in item}


def _whole(value: Json) -> Json:
    return _HALF.sub("\ufffd", value) if isinstance(value, str) else value


def _text(body: Mapping[str, Json], name: str, most: int) -> str:
    """Return a text of a body, cut to `most` characters; a cut one ends with an ellipsis."""
    text = str(body.get(name) or "")
    return text if len(text) <= most else text[: most - 1] + "…"


def _progress(progress: Mapping[str, Json]) -> str:
    counts = (progress.get(name) for name in _STEPS)
    return json.dumps(
        {
            name: min(count, _MOST_STEPS)
            for name, count in zip(_STEPS, counts, strict=True)
            if isinstance(count, int)
        }
    )
