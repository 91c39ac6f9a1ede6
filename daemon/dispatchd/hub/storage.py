"""What the hub keeps of a job, and the seam behind which it is kept."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from attrs import frozen

from dispatchd.domain.job import Json


class State(StrEnum):
    """Where a job stands at the hub."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    """Handed to a machine, which has not accepted it yet."""
    ACCEPTED = "accepted"
    FINISHED = "finished"


@frozen(kw_only=True)
class Submission:
    """A job as it was submitted: its fields in wire names, payload and headers as exact JSON texts."""

    id: str
    document: dict[str, Json]
    payload: str
    headers: str


@frozen(kw_only=True)
class Result:
    """How a job ended, as its machine says it; contracts/README.md, results."""

    status: str
    summary: str = ""
    cause: str = ""
    output: str = ""


@frozen(kw_only=True)
class Standing:
    """How a job stands on its machine: its phase, why it is parked, and the newest progress (JSON)."""

    phase: str
    reason: str = ""
    progress: str = ""


@frozen(kw_only=True)
class HubJob:
    """A job at the hub. Times are seconds since the epoch, 0 for what has not happened."""

    id: str
    document: dict[str, Json]
    state: State = State.QUEUED
    machine: str = ""
    token_hash: str = ""
    lease_until: float = 0
    run_id: str = ""
    phase: str = ""
    reason: str = ""
    progress: str = ""
    cancel_requested: bool = False
    result_status: str = ""
    result_summary: str = ""
    result_cause: str = ""
    result_output: str = ""
    created_at: float = 0
    claimed_at: float = 0
    accepted_at: float = 0
    finished_at: float = 0
    deliveries: int = 0
    accepts: int = 0
    finishes: int = 0


@frozen(kw_only=True)
class Claimed:
    """A job that has just been claimed, with the texts that go out with it."""

    job: HubJob
    payload: str
    headers: str


class Storage(Protocol):
    """Durable jobs. Calls block, are atomic, and may come from any thread.

    Every call fails with StorageBusy if the database can't be written or read now.
    """

    def submit(
        self,
        submission: Submission,
        *,
        now: float,
        also: Callable[[HubJob], HubJob] | None = None,
    ) -> bool:
        """Keep a new job durably; False, and nothing changes, if its id is taken.

        With `also`, every other unfinished job is at the same time replaced by what it makes of it.
        """
        ...

    def claim(
        self, machine: str, token_hash: str, *, now: float, lease_s: float
    ) -> Claimed | None:
        """Give a machine the next job, urgent ones first, then the oldest.

        Queued ones, and those which were claimed, not accepted, and whose lease is over.
        """
        ...

    def next_expiry(self) -> float | None:
        """Return when the next unaccepted claim runs out, or None."""
        ...

    def change(self, job_id: str, decide: Callable[[HubJob], HubJob]) -> HubJob | None:
        """Replace a job by what `decide` makes of it; None if there is no such job. What it raises changes nothing."""
        ...

    def get(self, job_id: str) -> HubJob | None:
        """Return a job, or None."""
        ...

    def list(self, state: str, limit: int) -> list[HubJob]:
        """Return the newest jobs, in some state or in any (empty), oldest of them first."""
        ...

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a value that is made once and kept."""
        ...


class StorageBusy(Exception):
    """The database can't be used now; the same call may succeed later."""
