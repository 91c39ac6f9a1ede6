"""Records of the client: jobs, artifacts and parts of logs, as the hub describes them. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

_LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999, the last that a datetime can have (seconds since the epoch)."""


class JobState(StrEnum):
    """State of a job at the hub (contracts/README.md, states of a job)."""

    RECEIVED = "received"
    QUEUED = "queued"
    CLAIMED = "claimed"
    ACCEPTED = "accepted"
    RUNNING = "running"
    NEEDS_ATTENTION = "needs_attention"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    REJECTED = "rejected"
    IGNORED = "ignored"
    SUPERSEDED = "superseded"


@frozen(kw_only=True)
class Job:
    """A job as the hub shows it. A text is empty, and a time None, for what is absent or has not happened."""

    id: str
    state: JobState
    ended: bool
    """True if the state is one of the ends."""
    workflow: str
    repository: str
    """Full name of the repository, as OWNER/NAME."""
    ref: str
    sha: str
    machine: str
    """Name of the machine that has, or had, the job."""
    run_id: str
    phase: str
    """Phase on the machine."""
    reason: str
    """Reason why the job waits for a person."""
    parked: str
    """Name of the job's present stay in `needs_attention`."""
    cancel_requested: bool
    summary: str
    """Description of the end, in words."""
    cause: str
    """Failure cause (contracts/README.md, failure causes)."""
    created_at: datetime | None
    accepted_at: datetime | None
    finished_at: datetime | None
    outputs: Mapping[str, str] = field(eq=False)
    """Outputs of the run; empty for a job of a list."""
    output: str = field(repr=False)
    """End of the run's output; empty for a job of a list."""
    document: Mapping[str, Any] = field(eq=False, repr=False)
    """All that the hub says (contracts/schemas/hub-job.schema.json)."""

    @property
    def succeeded(self) -> bool:
        """True if the job has ended as `succeeded`."""
        return self.state is JobState.SUCCEEDED

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Job":
        """Return the job of a document that keeps the contract hub-job."""
        outputs = document.get("result_outputs") or {}
        return cls(
            id=document["id"],
            state=JobState(document["state"]),
            ended=document["ended"],
            workflow=_text(document, "dag_name"),
            repository=_text(document, "repository_name"),
            ref=_text(document, "ref"),
            sha=_text(document, "sha"),
            machine=document["machine_name"] or document["machine"],
            run_id=document["run_id"],
            phase=document["phase"],
            reason=document["reason"],
            parked=document["parked"],
            cancel_requested=document["cancel_requested"],
            summary=document["result_summary"],
            cause=document["result_cause"],
            created_at=_time(document["created_at"]),
            accepted_at=_time(document["accepted_at"]),
            finished_at=_time(document["finished_at"]),
            outputs={name: str(value) for name, value in outputs.items()},
            output=_text(document, "result_output"),
            document=document,
        )


@frozen(kw_only=True)
class Artifact:
    """A file that a job has left."""

    path: str
    size: int
    """Length of the file (bytes)."""
    sha256: str
    """SHA-256 of the file, in lower-case hex."""
    state: str
    """`stored` if the hub has it; else `waiting`, `missing` or `refused`."""
    reason: str
    """Reason why the hub refused it."""
    attempt: int
    from_fork: bool
    """True if code from a fork has made it."""
    document: Mapping[str, Any] = field(eq=False, repr=False)
    """All that the hub says (contracts/schemas/hub-artifact.schema.json)."""

    @property
    def is_stored(self) -> bool:
        """True if the hub has its bytes."""
        return self.state == "stored"

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Artifact":
        """Return the artifact of a document that keeps the contract hub-artifact."""
        return cls(
            path=document["path"],
            size=document["size"],
            sha256=document["sha256"],
            state=document["state"],
            reason=document["reason"],
            attempt=document["attempt"],
            from_fork=document["from_fork"],
            document=document,
        )


@frozen(kw_only=True)
class LogPiece:
    """A part of the log of a job."""

    attempt: int
    """Place of its attempt among those of the job, from 1 (count)."""
    data: bytes
    """Bytes as the command wrote them, without secrets; a character may continue in the next piece."""


def _text(document: Mapping[str, Any], name: str) -> str:
    return str(document.get(name) or "")


def _time(at: float) -> datetime | None:
    return datetime.fromtimestamp(min(at, _LATEST_S), UTC) if at > 0 else None
