"""Report of an attempt on disk, stored in its folder between its conclusion and the finish.

There are two files: the end of the output as text, and everything else as one JSON object. An earlier release
has left the first one alone. A command can write to both places, so neither is trusted when it is read back.
"""

import json
from pathlib import Path
from typing import Final

from attrs import evolve

from dispatchd.agent.store.durable import put_files, remove_file, sync_folder
from dispatchd.agent.store.runs import RunFolder
from dispatchd.errors import ContractViolation
from dispatchd.linux.untrusted_files import read_regular
from dispatchd.protocol.contracts import check
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.report import MOST_ANNOTATIONS, MOST_SPANS, Report

_LARGEST_OUTPUT: Final = 128 * 1024
"""Largest output file that is read (bytes): an output has 16,000 characters of up to 4 bytes, and its first line."""

_LARGEST_DETAILS: Final = 8 * 1024 * 1024
"""Largest file of details that is read (bytes). Step summary and outputs have 128 KiB, annotations come from a result
of 1 MiB, and JSON writes a control character as 6."""

_UNLIKE_A_REPORT: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
    ContractViolation,
)
"""Errors of reading and structuring for a document of another form."""

_CONTRACT: Final = "finish-request"
"""Contract of the call that sends a report. What breaks it would be refused, however often it is sent."""

_WITHOUT_PARTS: Final = {
    **dict.fromkeys(("license_id", "server_id", "secret"), "-"),
    "result_status": "succeeded",
}
"""The least call of that contract."""

_MOST: Final = {"annotations": MOST_ANNOTATIONS, "spans": MOST_SPANS}
"""Most items of a part that are reported (count)."""

_WRITTEN_BY_COMMANDS: Final = ("step_summary", "outputs", "annotations", "spans")
"""Parts of a report that stand in the file of details."""

_converter = strict_converter(forbid_extra_keys=False, detailed_validation=False)


def write(run: RunFolder, number: int, report: Report) -> None:
    """Make the report of an attempt durable: both files, or none for an empty report.

    Anything that the command has put in their place is removed.

    Raises:
        StoreUnavailable: It can't be written.
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
    """Return whether an attempt has a report, or may have one that can't be reached."""
    try:
        return run.report_file(number).exists() or run.details_file(number).exists()
    except OSError:
        # Somebody has taken the mode of a folder away; `read` names what is missing.
        return True


def read(run: RunFolder, number: int) -> tuple[Report, str]:
    """Return the report of an attempt, and the reason if a part of it can't be read. Blocks.

    A part that can't be read is empty.
    """
    output = _get(run.report_file(number), _LARGEST_OUTPUT)
    details = _get(run.details_file(number), _LARGEST_DETAILS)
    problem = ""
    try:
        # A report without details is that of an earlier release.
        report = _structured("{}" if details is None else details)
    except _UNLIKE_A_REPORT:
        report, problem = Report(), "its outputs, step summary, annotations and spans"
    if output is None and details is not None:
        problem = " and ".join(part for part in ("its output", problem) if part)
    return evolve(report, output=output or ""), problem


def _structured(text: str) -> Report:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError
    for name, most in _MOST.items():
        if isinstance(document.get(name), list):
            document[name] = document[name][:most]
    parts = {f"result_{name}": document.get(name) for name in _WRITTEN_BY_COMMANDS}
    check(_CONTRACT, {**_WITHOUT_PARTS, **parts})
    return _converter.structure(document, Report)


def _get(file: Path, limit: int) -> str | None:
    """Return the text of a file: empty if it can't be read, None if it doesn't exist."""
    try:
        return (read_regular(file, limit) or b"").decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""
