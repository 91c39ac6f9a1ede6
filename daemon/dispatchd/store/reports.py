"""What will be reported of an attempt, kept in its folder between its conclusion and the finish.

Two files: the end of the output as text, and all else as one JSON object. The first one alone is what an
earlier release has left. Both lie where a command can write, so neither is trusted when it is read back.
"""

import json
from pathlib import Path
from typing import Final

from attrs import evolve

from dispatchd.conversion import strict_converter
from dispatchd.domain.report import Report
from dispatchd.errors import StoreUnavailable
from dispatchd.hostile_files import read_regular, write_new
from dispatchd.store.runs import RunFolder

_LARGEST_OUTPUT: Final = 128 * 1024
"""More than an output has: 16,000 characters of up to 4 bytes, and its first line (bytes)."""

_LARGEST_DETAILS: Final = 8 * 1024 * 1024
"""More than all else can have (bytes): step summary and outputs are 128 KiB, annotations come out of a result of
1 MiB, and JSON writes a control character as 6."""

_UNLIKE_A_REPORT: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What reading and structuring raise for a document of another form."""

_converter = strict_converter(forbid_extra_keys=False, detailed_validation=False)


def write(run: RunFolder, number: int, report: Report) -> None:
    """Write what will be reported of an attempt, each file as a whole; what is empty has none.

    Fails with StoreUnavailable if it can't be written.
    """
    details = _converter.unstructure(evolve(report, output=""))
    text = json.dumps(details, ensure_ascii=False) if details else ""
    _put(run.report_file(number), report.output)
    _put(run.details_file(number), text)


def exist(run: RunFolder, number: int) -> bool:
    """Return whether there is anything to report of an attempt."""
    return run.report_file(number).exists() or run.details_file(number).exists()


def read(run: RunFolder, number: int) -> Report:
    """Return what is to be reported of an attempt; what can't be read is empty. Blocks."""
    output = _get(run.report_file(number), _LARGEST_OUTPUT)
    details = _get(run.details_file(number), _LARGEST_DETAILS)
    try:
        found = _converter.structure(json.loads(details or "{}"), Report)
    except _UNLIKE_A_REPORT:
        found = Report()
    return evolve(found, output=output)


def _put(file: Path, text: str) -> None:
    """Write a text in place of whatever is there, which may be the command's; an empty one leaves nothing.

    Raises:
        StoreUnavailable: It can't be written.
    """
    try:
        if text:
            write_new(file, text.encode(errors="replace"))
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(path=file, error=error) from error


def _get(file: Path, limit: int) -> str:
    try:
        return (read_regular(file, limit) or b"").decode(errors="replace")
    except OSError:
        return ""
