"""TrackedJob <-> JSON bytes, with a version and migrations (contracts/README.md, tracked-job)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cattrs.errors import ForbiddenExtraKeysError

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.errors import RecordTooNew, RecordUnreadable
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Json

SCHEMA_VERSION: Final = 9
"""Version that this release writes. It reads this version and every older one."""

Record = dict[str, Json]


def _with_a_reason(record: Record) -> Record:
    """Add a reason: version 1 parked a job only at a bug, and left the reason to the log."""
    if record.get("phase") == "needs_attention":
        return {**record, "blocked": "Parked by an earlier release; its log says why."}
    return record


def _of_no_known_fork(record: Record) -> Record:
    """Change nothing: version 2 had no `from_fork`, and absent means false."""
    return record


def _without_releases(record: Record) -> Record:
    """Change nothing: version 3 had no phase `releasing`."""
    return record


def _without_start_failures(record: Record) -> Record:
    """Change nothing: version 4 had no `start_failures` and no cause `unkillable`."""
    return record


def _without_terms(record: Record) -> Record:
    """Change nothing: version 5 had no `terms` of an attempt."""
    return record


def _without_batch_jobs(record: Record) -> Record:
    """Change nothing: version 6 had no `batch_job` of an attempt."""
    return record


def _without_dag_runs(record: Record) -> Record:
    """Change nothing: version 7 had no `dag_run` of an attempt."""
    return record


def _without_engine_runs(record: Record) -> Record:
    """Change nothing: version 8 had no `engine_run` of an attempt."""
    return record


MIGRATIONS: Final[Mapping[int, Callable[[Record], Record]]] = MappingProxyType(
    {
        1: _with_a_reason,
        2: _of_no_known_fork,
        3: _without_releases,
        4: _without_start_failures,
        5: _without_terms,
        6: _without_batch_jobs,
        7: _without_dag_runs,
        8: _without_engine_runs,
    }
)
"""Migrations from each older version to the next one. A function in here is never edited once released."""

_UNLIKE_A_RECORD: Final = (
    ForbiddenExtraKeysError,
    TypeError,
    ArithmeticError,
    ValueError,
    LookupError,
    AttributeError,
)
"""Errors of structuring for a document of another form."""

_converter = strict_converter(forbid_extra_keys=True, detailed_validation=False)


def to_document(record: TrackedJob) -> Record:
    """Return a record as a JSON object, fields in order, defaults left out."""
    return {"schema_version": SCHEMA_VERSION, **_converter.unstructure(record)}


def to_public(record: TrackedJob) -> Record:
    """Return a record as a JSON object for others to see, without its claim token."""
    document = to_document(record)
    job = document.get("job")
    if isinstance(job, dict):
        job.pop("claim_token", None)
    return document


def encode(record: TrackedJob) -> bytes:
    """Return a record as it is stored: one JSON object in ASCII."""
    return json.dumps(to_document(record), indent=1).encode()


def decode(data: bytes, *, path: Path | str) -> TrackedJob:
    """Return the record in a file's content, migrated to this version if it is older.

    Args:
        data: The content.
        path: The file, for the errors.

    Raises:
        RecordUnreadable: The content isn't a record.
        RecordTooNew: A newer release wrote it.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordUnreadable(path=path, reason=f"not JSON: {error}") from error
    return from_document(document, path=path)


def from_document(document: Json, *, path: Path | str) -> TrackedJob:
    """Return the record in a JSON object, as `decode` does; its claim token may be missing.

    Raises:
        RecordTooNew: A newer release wrote it.
        RecordUnreadable: The object isn't a record.
    """
    if not isinstance(document, dict):
        raise RecordUnreadable(path=path, reason="not a JSON object")
    version = document.pop("schema_version", None)
    if type(version) is not int or version < 1:
        raise RecordUnreadable(
            path=path,
            reason=f"schema_version is {version!r:.40}, not a positive number",
        )
    if version > SCHEMA_VERSION:
        raise RecordTooNew(path=path, version=version, newest=SCHEMA_VERSION)
    try:
        for older in range(version, SCHEMA_VERSION):
            document = MIGRATIONS[older](document)
        return _converter.structure(document, TrackedJob)
    except _UNLIKE_A_RECORD as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecordUnreadable(path=path, reason=reason[:300]) from error
