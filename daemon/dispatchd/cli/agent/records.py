"""Records for commands: from the daemon, or from the store if no daemon answers."""

from typing import Final
from urllib.parse import quote

from dispatchd.agent.config.load import Places
from dispatchd.agent.control.calls import SOCKET
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import from_document
from dispatchd.cli.terminal import complain
from dispatchd.errors import FolderUnusable, NotReachable, UsageError

_TIMEOUT_S: Final = 5.0
"""Longest time of a healthy daemon for a list of jobs (seconds)."""


def read_records(places: Places, *, past: int) -> list[TrackedJob]:
    """Return every tracked job and the newest past ones, the latest change first."""
    records = _records(places, f"past={past}", _TIMEOUT_S)
    newest = sorted(records, key=lambda record: record.changed_at, reverse=True)
    tracked = [record for record in newest if record.phase is not Phase.HISTORY]
    ended = [record for record in newest if record.phase is Phase.HISTORY]
    return [*tracked, *ended[:past]]


def find_job(
    places: Places, job_id: str, *, timeout_s: float = _TIMEOUT_S
) -> TrackedJob:
    """Return a tracked or past job by its id, or by the beginning of the id if that is unique.

    The daemon has `timeout_s` (seconds) to answer; after that the store is read.

    Raises:
        UsageError: There is no such job, or more than one.
    """
    records = _records(
        places, f"like={quote(job_id, safe='', errors='surrogatepass')}", timeout_s
    )
    matches = [record for record in records if record.job.id.startswith(job_id)]
    exact = [record for record in matches if record.job.id == job_id]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    cannot = f"find a job {job_id!r} in {places.state_folder}"
    if matches:
        names = ", ".join(record.job.id for record in matches[:5])
        raise UsageError(
            cannot=cannot, reason=f"{len(matches)} begin with it ({names})"
        )
    raise UsageError(cannot=cannot, reason="there is none; `dispatchd jobs` lists them")


def _records(places: Places, query: str, timeout_s: float) -> list[TrackedJob]:
    """Return the daemon's answer, or the records in the store if there is none.

    Raises:
        NotReachable: This user may read neither.
    """
    from dispatchd.agent.control.client import ask

    socket = places.control_folder / SOCKET
    try:
        answer = ask(
            places.control_folder,
            "GET",
            f"/v1/jobs?{query}",
            cannot="ask the daemon for its jobs",
            timeout_s=timeout_s,
            state=places.state_folder,
        )
    except NotReachable as error:
        # Slow to load, and a running daemon answers.
        from dispatchd.agent.store.jobs import read_all

        try:
            records = list(read_all(places.state_folder))
        except FolderUnusable:
            # The error of the daemon's socket is the one that helps.
            raise error from None
        if socket.exists():
            complain(f"{error}; reading {places.state_folder}")
        return records
    documents = answer.get("jobs") if isinstance(answer, dict) else None
    return [
        from_document(document, path=socket)
        for document in (documents if isinstance(documents, list) else [])
    ]
