"""A person's decision about a parked job, made at the hub; the job's machine carries it out."""

import json
from enum import StrEnum
from hashlib import sha256
from typing import Self

from attrs import asdict, field, frozen

from dispatchd.hub.domain.model import HubJob, State
from dispatchd.protocol.json_text import whole_characters
from dispatchd.protocol.outcome import Verdict, marked


class Stage(StrEnum):
    """How far a decision has come."""

    WAITING = "waiting"
    """The job is still parked; its machine gets the decision with each heartbeat."""
    SENT = "sent"
    """The machine has got it, and the job is no longer parked as it was."""
    OVERTAKEN = "overtaken"
    """The machine never got it: the job did not stay parked, or somebody decided on the machine."""


@frozen(kw_only=True)
class Decision:
    """Decision about a job, while it was parked under one claim.

    `parked` is the machine's name for that stay in `needs_attention`, `claim` the number of the claim. `sent_at` is the
    time of the first answer to a heartbeat that had the decision; 0 before.
    """

    choice: str
    note: str = field(converter=whole_characters)
    by: str = field(converter=whole_characters)
    at: float
    parked: str
    claim: int
    sent_at: float = 0

    @classmethod
    def of(cls, job: HubJob) -> Self | None:
        """Return the newest decision about a job, or None before the first."""
        return cls(**json.loads(job.decision)) if job.decision else None

    @property
    def text(self) -> str:
        """The decision as it is stored, in a column of the job."""
        return json.dumps(asdict(self))

    @property
    def verdict(self) -> Verdict | None:
        """Verdict of a job that it ends without its machine; None for another attempt.

        Others may read the summary than know who decides here.
        """
        return marked(self.choice, "a person at the hub", self.note)

    def is_about(self, job: HubJob) -> bool:
        """Return whether a job is parked as it was at the decision: under the same claim, in the same stay."""
        return (
            is_parked(job)
            and job.parked == self.parked
            and job.deliveries == self.claim
        )

    def is_repeated_by(self, other: Self, seen: str | None) -> bool:
        """Return whether another decision is this one once more, by a person who has seen the stay `seen` (None for any)."""
        stay = other.parked if seen is None else seen
        about = (other.choice, stay, other.claim)
        return about == (self.choice, self.parked, self.claim)

    def stage(self, job: HubJob) -> Stage:
        """Return how far the decision about a job has come."""
        if self.is_about(job) and not job.cancel_requested:
            return Stage.WAITING
        return Stage.SENT if self.sent_at else Stage.OVERTAKEN


def is_parked(job: HubJob) -> bool:
    """Return whether a job is parked, as far as the hub knows: its machine has not accepted it again since it said so."""
    return job.state is State.NEEDS_ATTENTION and job.phase == State.NEEDS_ATTENTION


def stay_tag(job: HubJob) -> str:
    """Return a short name of a parked job's stay under its claim (12 hex digits), for buttons elsewhere."""
    stay = f"{job.deliveries} {job.parked}"
    return sha256(stay.encode()).hexdigest()[:12]


def waiting(job: HubJob) -> Decision | None:
    """Return the decision that a job's machine has yet to carry out, or None."""
    decision = Decision.of(job)
    if decision is None or decision.stage(job) is not Stage.WAITING:
        return None
    return decision
