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
from dispatchd.hostile_files import read_regular
from dispatchd.store.durable import put_files, remove_file, sync_folder
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
    """Make durable what will be reported of an attempt: both files, or none where there is nothing.

    What the command itself may have put there is gone then.

    Fails with StoreUnavailable if it can't be written.
    """
    folder = run.attempt(number)
    details = _converter.unstructure(evolve(report, output=""))
    if report == Report():
        remove_file(folder, run.report_file(number).name)
        remove_file(folder, run.details_file(number).name)
        return
    text = json.dumps(details, ensure_ascii=False)
    put_files(
        folder,
        {
            run.report_file(number).name: report.output.encode(errors="replace"),
            run.details_file(number).name: text.encode(errors="replace"),
        },
    )
    sync_folder(run.path)


def exist(run: RunFolder, number: int) -> bool:
    """Return whether there is anything to report of an attempt."""
    return run.report_file(number).exists() or run.details_file(number).exists()


def read(run: RunFolder, number: int) -> tuple[Report, str]:
    """Return what is to be reported of an attempt, and what is wrong with it, if anything. Blocks.

    What can't be read is empty.
    """
    output = _get(run.report_file(number), _LARGEST_OUTPUT)
    details = _get(run.details_file(number), _LARGEST_DETAILS)
    flaw = ""
    try:
        # Without details it is that of an earlier release.
        found = _structured("{}" if details is None else details)
    except _UNLIKE_A_REPORT:
        found, flaw = Report(), "its outputs, step summary and annotations"
    if output is None and details is not None:
        flaw = " and ".join(each for each in ("its output", flaw) if each)
    return evolve(found, output=output or ""), flaw


def _structured(text: str) -> Report:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError
    return _converter.structure(document, Report)


def _get(file: Path, limit: int) -> str | None:
    """Return the text of a file: empty if it can't be read, None if it isn't there."""
    try:
        return (read_regular(file, limit) or b"").decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""
