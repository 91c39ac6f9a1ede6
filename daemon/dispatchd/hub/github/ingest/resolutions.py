"""Decisions about parked jobs that came from GitHub: by a command in a comment, or a button on a check.

A decision is a received job of its own until GitHub has said whether its author may make it; it names the parked job, as it
was when the event came, and no machine ever gets it.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, select

from dispatchd.hub.domain.decisions.decision import Decision
from dispatchd.hub.domain.decisions.rules import decide
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import JobEnded, NotResolvable
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.hub.domain.supersede import is_same_repository
from dispatchd.hub.queue.admission import of_repository
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.rows import COLUMNS, read_job, write_job
from dispatchd.hub.storage.schema import JOBS
from dispatchd.protocol.job import Json

_JOB: Final = JOBS.c
_CLOCKS_S: Final = 2.0
"""Difference of the hub's clock and GitHub's that changes nothing, with the fractions of a second that GitHub leaves out (seconds)."""

_NAMED: Final = 5
"""Most jobs that a message names (count)."""


def parked_jobs(db: Connection, document: JobDocument) -> list[HubJob]:
    """Return the parked jobs of the pull request or issue of a command, oldest first."""
    if not document.number:
        return []
    query = select(*COLUMNS).where(
        _JOB.state == State.NEEDS_ATTENTION,
        of_repository(document),
        _JOB.number == document.number,
    )
    rows = db.execute(query.order_by(_JOB.position)).mappings()
    return [
        job for job in map(read_job, rows) if is_same_repository(document, job.document)
    ]


def with_target(
    document: JobDocument, parked: Sequence[HubJob], *, said_at: float = 0
) -> JobDocument:
    """Return the document of a decision with the one parked job that it is about, or with the reason why there is none.

    Args:
        document: The document.
        parked: The jobs that are parked now.
        said_at: The time at which its author wrote it (seconds since the epoch); 0 for now. A comment may come days
            later, and is about no job that was parked meanwhile.
    """
    resolution: dict[str, Json] = {**(document.resolution or {})}
    since = [job for job in parked if 0 < said_at < job.parked_at - _CLOCKS_S]
    parked = [job for job in parked if job not in since]
    if len(parked) == 1:
        [job] = parked
        # Whoever may start it may decide about it.
        document = document.changed(rule=job.document.rule)
        target: dict[str, Json] = {
            "job": job.id,
            "parked": job.parked,
            "claim": job.deliveries,
        }
        return document.without_empty().resolving({**resolution, **target})
    reason = "no job of it is parked"
    if since:
        names = ", ".join(job.id for job in since[:_NAMED])
        reason = f"this was written before its job was parked ({names}); look at it, and write it again"
    if parked:
        names = ", ".join(job.id for job in parked[:_NAMED])
        reason = f"{len(parked)} jobs of it are parked ({names}); decide by the buttons on their checks, or at the hub"
    return document.resolving({**resolution, "problem": reason})


def carry_out(db: Connection, job: HubJob, *, now: float) -> tuple[HubJob | None, str]:
    """Store a decision that its author may make; return the parked job with it, or the reason why it can't have it.

    Args:
        db: The transaction.
        job: The received job of the decision.
        now: The time (seconds since the epoch).
    """
    resolution = job.document.resolution or {}
    if problem := str(resolution.get("problem") or ""):
        return None, problem
    job_id = str(resolution.get("job") or "")
    row = db.execute(queries.LOCKED, {"of_id": job_id}).mappings().first()
    if row is None:
        return None, f"there is no job {job_id} (any more)"
    before = read_job(row)
    parked = str(resolution.get("parked") or "")
    decision = Decision(
        choice=str(resolution["as"]),
        note=str(resolution.get("note") or ""),
        by=f"{job.document.actor} at GitHub",
        at=now,
        parked=parked,
        claim=int(str(resolution.get("claim") or 0)),
    )
    try:
        # Without the machine's name: the reply is for everybody who can read the comment.
        after = decide(before, decision, machine="of the job", seen=parked)
    except (JobEnded, NotResolvable) as refusal:
        return None, str(refusal)
    if after != before:
        write_job(db, before, after)
    return after, ""
