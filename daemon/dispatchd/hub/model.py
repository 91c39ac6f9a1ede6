"""What the hub keeps. Times are seconds since the epoch, 0 for what has not happened; an empty text is none."""

import json
from enum import StrEnum
from typing import Final

from attrs import frozen

from dispatchd.domain.job import Json


class State(StrEnum):
    """Where a job stands at the hub."""

    RECEIVED = "received"
    """Kept, and not yet free to be handed out."""
    QUEUED = "queued"
    CLAIMED = "claimed"
    """Handed to a machine, which has not accepted it yet."""
    ACCEPTED = "accepted"
    RUNNING = "running"
    NEEDS_ATTENTION = "needs_attention"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    REJECTED = "rejected"
    IGNORED = "ignored"
    """No rule wanted it."""
    SUPERSEDED = "superseded"
    """A newer job of the same kind has taken its place before a machine had it."""


HELD: Final = (State.CLAIMED, State.ACCEPTED, State.RUNNING, State.NEEDS_ATTENTION)
"""A machine has it."""

WAITING: Final = (State.RECEIVED, State.QUEUED)
"""No machine has it, and it may still be handed out."""

ENDED: Final = tuple(each for each in State if each not in {*HELD, *WAITING})


@frozen(kw_only=True)
class Check:
    """What shows a job at GitHub: a check run, or a commit status where those aren't permitted."""

    job_id: str = ""
    installation: int = 0
    """Id of the App's installation; 0 where the hub has a token instead."""
    repository: str
    """As owner/name."""
    sha: str
    pull_request: int = 0
    name: str
    state: str = ""
    """The job's state after its last change."""
    owed: bool = True
    """Whether GitHub may have to be told something."""
    told: str = ""
    """What GitHub was told last: `queued`, `in_progress`, or a conclusion."""
    round: int = 1
    """How many check runs this job has had (count): a parked one that goes on gets another."""
    kind: str = ""
    """`check` or `status`; empty until one of them has been made."""
    check_run_id: int = 0
    asked: bool = False
    """Whether there is something of this round that isn't known: a check run that may have been made, or, where its
    id is known, a conclusion that it may have got though its job goes on."""
    failures: int = 0
    """How often in a row telling has failed (count)."""
    retry_at: float = 0
    trouble: str = ""
    """Why it failed last, in words."""
    created_at: float = 0


@frozen(kw_only=True)
class Submission:
    """A job as it was submitted: its fields in wire names, payload and headers as exact JSON texts."""

    id: str
    document: dict[str, Json]
    payload: str
    headers: str
    priority: int = 0
    supersedes: bool = True
    """Whether it takes older queued jobs of the same pull request and workflow out."""
    received: bool = False
    """Whether something has to be asked before it may be handed out."""
    check: Check | None = None
    """What is to show it at GitHub."""
    by_event: bool = False
    """Whether a rule has made it of an event of GitHub, and nobody has submitted it."""
    event_at: float = 0
    """When what it is about was changed, as GitHub says; 0 where it doesn't."""

    @property
    def size(self) -> int:
        """Of all its texts (bytes)."""
        texts = (json.dumps(self.document), self.payload, self.headers)
        return sum(len(text.encode(errors="surrogatepass")) for text in texts)


@frozen(kw_only=True)
class Result:
    """How a job ended, as its machine says it; contracts/README.md, results."""

    status: str
    summary: str = ""
    cause: str = ""
    output: str = ""
    details: str = ""
    """Step summary, outputs and annotations, as a JSON object; empty for none."""


@frozen(kw_only=True)
class Standing:
    """How a job stands on its machine: its phase, why it is parked, and the newest progress (JSON)."""

    phase: str
    reason: str = ""
    progress: str = ""


@frozen(kw_only=True)
class HubJob:
    """A job at the hub.

    Of those queued, `urgent` ones go out first, then by `priority`, then by `turn`, by which the repositories
    take turns, then by age. `machine` and `token_hash` are those of the newest claim; `lapsed` marks a job that
    was queued again because its lease ran out, so that the old claim still counts until the next one.
    """

    id: str
    document: dict[str, Json]
    workflow: str = ""
    repository: str = ""
    number: int = 0
    """Of its pull request or issue, which share their numbers."""
    by_event: bool = False
    """Whether a rule has made it of an event of GitHub: only then GitHub stands behind what its document says."""
    event_at: float = 0
    """When its pull request was changed, as GitHub says; 0 where it doesn't."""
    urgent: bool = False
    priority: int = 0
    turn: int = 0
    size: int = 0
    """Of all its texts as it was submitted (bytes)."""
    only_machine: str = ""
    """The only machine that may have it; empty for any."""
    state: State = State.QUEUED
    machine: str = ""
    token_hash: str = ""
    lease_until: float = 0
    lapsed: bool = False
    run_id: str = ""
    phase: str = ""
    reason: str = ""
    progress: str = ""
    cancel_requested: bool = False
    result_summary: str = ""
    result_cause: str = ""
    result_output: str = ""
    result_details: str = ""
    """What else was reported: `result_step_summary`, `result_outputs`, `result_annotations` (JSON object)."""
    created_at: float = 0
    claimed_at: float = 0
    accepted_at: float = 0
    finished_at: float = 0
    deliveries: int = 0
    expiries: int = 0
    accepts: int = 0
    finishes: int = 0


@frozen(kw_only=True)
class Claimed:
    """A job that has just been claimed, with the texts that go out with it."""

    job: HubJob
    before: HubJob
    """The job before this claim."""
    payload: str
    headers: str


@frozen(kw_only=True)
class Attempt:
    """One claim of a job: which machine had it, from when to when, and what came of it.

    `outcome` is a result, `released`, `expired`, or empty while it lasts.
    """

    job_id: str
    number: int
    machine: str
    claimed_at: float
    lease_until: float = 0
    ended_at: float = 0
    outcome: str = ""
    cause: str = ""


@frozen(kw_only=True)
class Machine:
    """A machine that may work here.

    `server_id` is what it calls itself: known from its first activation, or from the start where it has a fixed
    secret. Of secret and enrolment key only hashes are kept.
    """

    name: str
    server_id: str = ""
    license_id: str = ""
    secret_hash: str = ""
    key_hash: str = ""
    key_expires_at: float = 0
    added_at: float = 0
    activated_at: float = 0
    seen_at: float = 0
    revoked_at: float = 0
    workflows: str = ""
    """What it declared with its newest pull, as a JSON list; empty for nothing."""


@frozen(kw_only=True)
class Token:
    """What a person or program may do here; only the token's hash is kept."""

    name: str
    token_hash: str
    scopes: str
    """Words of submit, read, admin, with spaces between them."""
    created_at: float = 0
    revoked_at: float = 0


@frozen(kw_only=True)
class Delivery:
    """An event that came in, and what became of it. Hook and id together are its own."""

    target: str = ""
    """What the hook belongs to that brought it, as TYPE/ID (`integration/1234`); empty for one that a submit named."""
    id: str
    event: str = ""
    action: str = ""
    installation: int = 0
    repository: str = ""
    payload_hash: str = ""
    received_at: float = 0
    routing: str = ""
    """What was decided about it, in words."""
    state: str = ""
    """`queued`, `done`, `ignored` or `redelivered`."""
    job_ids: tuple[str, ...] = ()
    """The jobs that were made of it, newest last."""


class StorageBusy(Exception):
    """The database can't be used now; the same call may succeed later."""


class Locked(Exception):
    """Other transactions have jobs locked that a machine may have: whether one is free is known soon."""


class QueueFull(Exception):
    """As much waits as may, which the text says; the same submit may succeed later."""
