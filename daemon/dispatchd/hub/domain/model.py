"""Records of the hub. Times are seconds since the epoch, 0 for what has not happened; an empty text means none."""

from enum import StrEnum
from typing import Final

from attrs import field, frozen

from dispatchd.hub.domain.document import JobDocument, as_document


class State(StrEnum):
    """State of a job at the hub."""

    RECEIVED = "received"
    """Stored, but not yet queued."""
    QUEUED = "queued"
    CLAIMED = "claimed"
    """Dispatched to a machine, which has not accepted it yet."""
    ACCEPTED = "accepted"
    RUNNING = "running"
    NEEDS_ATTENTION = "needs_attention"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    REJECTED = "rejected"
    IGNORED = "ignored"
    """Not permitted, or not wanted any more, when GitHub was asked about it."""
    SUPERSEDED = "superseded"
    """Replaced by a newer job of the same kind before a machine had it."""


HELD: Final = (State.CLAIMED, State.ACCEPTED, State.RUNNING, State.NEEDS_ATTENTION)
"""States of a job that a machine has."""

WAITING: Final = (State.RECEIVED, State.QUEUED)
"""States of a job that no machine has, and that may still be dispatched."""

ENDED: Final = tuple(state for state in State if state not in {*HELD, *WAITING})


@frozen(kw_only=True)
class Check:
    """Check that shows a job at GitHub: a check run, or a commit status where check runs aren't permitted."""

    job_id: str = ""
    installation: int = 0
    """Id of the App's installation; 0 where the hub has a token instead."""
    repository: str
    """Name of the repository, as owner/name."""
    sha: str
    pull_request: int = 0
    name: str
    state: str = ""
    """State of the job after its last change."""
    owed: bool = True
    """True if the check may be pending: GitHub may not have the newest state."""
    told: str = ""
    """State that was published last: `queued`, `in_progress`, or a conclusion; of a parked job with its stay after a `#`."""
    round: int = 1
    """Check runs that this job has had (count): a parked job that is resumed gets another."""
    kind: str = ""
    """Kind of the check: `check` or `status`; empty until one of them has been made."""
    check_run_id: int = 0
    asked: bool = False
    """True if the state at GitHub is uncertain in this round: a check run may have been made, or, where its id is known,
    it may have a conclusion although its job hasn't ended."""
    failures: int = 0
    """Failed publications in a row (count)."""
    retry_at: float = 0
    trouble: str = ""
    """Reason of the last failure, in words."""
    created_at: float = 0


@frozen(kw_only=True)
class Submission:
    """A job as submitted: its document, payload and headers as exact JSON texts."""

    id: str
    document: JobDocument = field(converter=as_document)
    payload: str
    headers: str
    priority: int = 0
    supersedes: bool = True
    """True if it supersedes older queued jobs of the same pull request and workflow."""
    received: bool = False
    """True if GitHub has to be asked about it before it is queued."""
    check: Check | None = None
    """Check that is to show it at GitHub."""
    by_event: bool = False
    """True if a rule made it of a GitHub event, and nobody submitted it."""
    event_at: float = 0
    """Time at which its pull request was changed, as GitHub says; 0 if it doesn't."""

    @property
    def size(self) -> int:
        """Size of all its texts (bytes)."""
        texts = (self.document.text, self.payload, self.headers)
        return sum(len(text.encode(errors="surrogatepass")) for text in texts)


@frozen(kw_only=True)
class Result:
    """Result of a job, as reported by its machine; contracts/README.md, results."""

    status: str
    summary: str = ""
    cause: str = ""
    output: str = ""
    details: str = ""
    """Details: step summary, outputs and annotations, as a JSON object; empty for none."""


@frozen(kw_only=True)
class Standing:
    """State of a job on its machine: its phase, the reason why it is parked, and the newest progress (JSON)."""

    phase: str
    reason: str = ""
    progress: str = ""
    parked: str = ""
    """The machine's name for this stay in `needs_attention`; empty if it takes no decisions from the hub."""


@frozen(kw_only=True)
class HubJob:
    """A job at the hub.

    Queued jobs are dispatched in this order: `urgent` ones first, then by `priority`, then by `turn`, which alternates
    between repositories, then by age. `machine` and `token_hash` are those of the newest claim. `lapsed` marks a job
    that was queued again because its lease expired; its old claim stays valid until the next one.
    """

    id: str
    document: JobDocument = field(converter=as_document)
    workflow: str = ""
    repository: str = ""
    number: int = 0
    """Number of its pull request or issue, which share their numbers."""
    by_event: bool = False
    """True if a rule made it of a GitHub event: only then GitHub vouches for its document."""
    event_at: float = 0
    """Time at which its pull request was changed, as GitHub says; 0 if it doesn't."""
    urgent: bool = False
    priority: int = 0
    turn: int = 0
    size: int = 0
    """Size of all its texts as submitted (bytes)."""
    only_machine: str = ""
    """The only machine that may get it; empty for any."""
    state: State = State.QUEUED
    machine: str = ""
    token_hash: str = ""
    lease_until: float = 0
    lapsed: bool = False
    run_id: str = ""
    phase: str = ""
    reason: str = ""
    progress: str = ""
    parked: str = ""
    """Its machine's name for the present stay in `needs_attention`; empty if the machine takes no decisions from the hub."""
    parked_at: float = 0
    """Time at which the hub has heard of that stay first."""
    cancel_requested: bool = False
    decision: str = ""
    """Newest decision of a person about it while it was parked (`domain/decisions/decision.py`, JSON); empty for none."""
    result_summary: str = ""
    """The end in words. Of a job that a machine has, empty, or the end if the machine hands it back: a newer commit came."""
    result_cause: str = ""
    result_output: str = ""
    result_details: str = ""
    """Further parts of the result: `result_step_summary`, `result_outputs`, `result_annotations`, `result_spans` (JSON object)."""
    created_at: float = 0
    claimed_at: float = 0
    accepted_at: float = 0
    started_at: float = 0
    """Time at which the hub first heard, under its newest claim, that it runs; 0 if it hasn't."""
    run_ended_at: float = 0
    """Time at which the hub first heard that its run has ended and the report is under way; 0 if it hasn't."""
    finished_at: float = 0
    deliveries: int = 0
    expiries: int = 0
    accepts: int = 0
    finishes: int = 0


@frozen(kw_only=True)
class Claimed:
    """A job that has just been claimed, with the texts to send with it."""

    job: HubJob
    before: HubJob
    """The job before this claim."""
    payload: str
    headers: str


@frozen(kw_only=True)
class Attempt:
    """One claim of a job: its machine, its times and its outcome.

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

    `server_id` is the machine's own id: known from its first activation, or from the start where it has a fixed
    secret. Of secret and enrolment key only hashes are stored.
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
    """Time of its last stored pull; 0 if it has not pulled since its activation."""
    revoked_at: float = 0
    workflows: str = ""
    """Workflows that it declared with its newest pull, as a JSON list; empty for none declared."""
    version: str = ""
    """Release of its program, as its newest pull says; empty if it hasn't said."""
    slots: int = 0
    """Most runs that it has at the same time (count); 0 if it hasn't said."""
    free_bytes: int = 0
    """Space that was left for its state folder at its newest pull (bytes); 0 if it hasn't said."""


@frozen(kw_only=True)
class Token:
    """Access token of a person or program, with its scopes; only the token's hash is stored."""

    name: str
    token_hash: str
    scopes: str
    """Scopes of the token: words of submit, read, admin, with spaces between them."""
    created_at: float = 0
    revoked_at: float = 0


@frozen(kw_only=True)
class Delivery:
    """A received event, and the decision about it. Hook and id together are unique."""

    target: str = ""
    """Owner of its hook, as TYPE/ID (`integration/1234`); empty for a delivery that a submission named."""
    id: str
    event: str = ""
    action: str = ""
    installation: int = 0
    repository: str = ""
    payload_hash: str = ""
    received_at: float = 0
    routing: str = ""
    """Decision about it, in words."""
    state: str = ""
    """State of the delivery: `queued`, `done`, `ignored` or `redelivered`."""
    job_ids: tuple[str, ...] = ()
    """Ids of the jobs that it made, newest last."""
