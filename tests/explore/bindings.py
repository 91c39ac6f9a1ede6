"""Bindings: the decisions of both programs, called with everything that they take; nothing else here imports them.

`Decisions` has the real ones; a planted fault replaces one. Where the product decides inside a loop, the few lines here
say the same, and name where they do it.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from dispatchd.agent.domain import cancel
from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.exit_table import Contract, Then
from dispatchd.agent.domain.fence import ClaimAnswer, may_start
from dispatchd.agent.domain.job import Attempt, TrackedJob, cancelled
from dispatchd.agent.domain.phase import OWES, Debt, Event, Phase
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence, judge
from dispatchd.errors import InvalidTransition
from dispatchd.hub.api.errors import STATUSES
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim, require_holder
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import (
    ENDED,
    HELD,
    WAITING,
    HubJob,
    Result,
    Standing,
    State,
    Submission,
)
from dispatchd.hub.domain.supersede import (
    Submitted,
    after_submit,
    after_targets,
    may_supersede,
)
from dispatchd.hub.domain.transitions import InvalidTransition as InvalidHubTransition
from dispatchd.hub.github.routing.job_id import JobIds
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Exit, FailureCause, Outcome, Verdict

__all__ = [
    "ENDED",
    "HELD",
    "STATUSES",
    "WAITING",
    "Claim",
    "ClaimAnswer",
    "Decisions",
    "Event",
    "Exit",
    "FailureCause",
    "HubError",
    "HubJob",
    "InvalidHubTransition",
    "InvalidTransition",
    "Job",
    "JobDocument",
    "Outcome",
    "Phase",
    "ProcessIdentity",
    "State",
    "Submitted",
    "TrackedJob",
    "Verdict",
    "Words",
    "require_holder",
]

Words = tuple[tuple[str, ClaimAnswer], ...]
"""What the endpoint has said last about each job."""

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO: Final = NOW - timedelta(days=1)
LEASE_S: Final = 60.0
IN_FORCE, OVER = 1.0, 0.0
"""Values of a job's `lease_until` at the hub."""
MOST_RETRIES: Final = 1
MOST_EXPIRIES: Final = 1

STARTABLE: Final = (Phase.ACCEPTED, Phase.RETRY_WAIT)
UNFINISHED: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
)
"""What fills a machine (`agent/loops/pull.py`), and what an operator can park (`agent/tracking/tracker.py`)."""
_BEATS: Final = (*UNFINISHED, Phase.NEEDS_ATTENTION, Phase.FINISHING)


# The machine.


def received(known: TrackedJob | None, job: Job) -> TrackedJob:
    """Return the record of a job that was handed out (`Tracker.receive`)."""
    if known is None:
        return TrackedJob.received(job, now=NOW)
    if known.was_given_back:
        return known.come_again(job, now=NOW)
    return known.with_claim(job).advance(Event.REDELIVERED, NOW)


def advanced(record: TrackedJob, event: Event, verdict: Verdict | None) -> TrackedJob:
    return record.advance(event, NOW, verdict=verdict)


def answered(record: TrackedJob, event: Event) -> TrackedJob:
    return record.after_answer(event, NOW)


def starting(record: TrackedJob) -> TrackedJob:
    """Return the record of an attempt that is about to get its process (`RunLoop._start`)."""
    if record.phase in STARTABLE:
        number = len(record.attempts) + 1
        attempt = Attempt(number=number, started_at=NOW, deadline_at=NOW)
        record = record.with_attempt(attempt)
    return record.advance(Event.ATTEMPT_STARTING, NOW)


def with_process(record: TrackedJob) -> TrackedJob:
    """Return the record with the process of its newest attempt (`AttemptRunner._launch`)."""
    assert record.attempt is not None
    process = ProcessIdentity(pid=1, start_ticks=1, boot_id="")
    attempt = evolve(record.attempt, process=process)
    return record.with_attempt(attempt).advance(Event.ATTEMPT_STARTED, NOW)


def given_back(record: TrackedJob) -> TrackedJob:
    """Return the record of a job that is to go back (`Tracker.give_back`)."""
    return record.advance(Event.RELEASE_WANTED, NOW) if record.is_unstarted else record


def ended(record: TrackedJob) -> TrackedJob:
    """Return the record of a job whose end somebody wants (`Tracker.cancel`)."""
    ending = record.ending(FailureCause.CANCELLED, NOW)
    return ending.advance(Event.CANCEL_REQUESTED, NOW, verdict=cancelled(""))


def parked(record: TrackedJob) -> TrackedJob:
    """Return the record of a job that an operator blocks (`Tracker.park`)."""
    event = Event.STOP_ORDERED if record.phase is Phase.RUNNING else Event.PARKED
    ending = evolve(record, blocked="x").ending(FailureCause.NEEDS_INPUT, NOW)
    return ending.advance(event, NOW)


def concluded(record: TrackedJob, code: int | None, blocks: bool) -> TrackedJob:
    """Return what becomes of a running job whose attempt is over (`decisions.decided`)."""
    attempt = record.attempt
    assert attempt is not None
    evidence = Evidence(
        end=Exit(code=code),
        contract=Contract.PLAIN,
        story=Story(blocked="x") if blocks else Story(),
        parked_for=record.blocked,
        duration_s=0.0,
    )
    ruling = judge(evidence, attempt.stop).ruling
    over = record.with_attempt(evolve(attempt, ended_at=NOW, cause=ruling.cause))
    if ruling.then is Then.PARK or ruling.outcome is None:
        return evolve(over, blocked="x").advance(Event.PARKED, NOW)
    if ruling.then is Then.RETRY and len(record.attempts) <= MOST_RETRIES:
        return evolve(over, retry_at=NOW).advance(Event.ATTEMPT_FAILED, NOW)
    verdict = Verdict(outcome=ruling.outcome, cause=ruling.cause, summary="")
    return over.advance(Event.DECIDED, NOW, verdict=verdict)


def undone(record: TrackedJob) -> TrackedJob:
    """Return what becomes of a running job whose attempt never began (`Concluder._undo`)."""
    assert record.attempt is not None
    if record.stop_requested:
        return concluded(record, None, blocks=False)
    never = record.without_attempt(record.attempt.number)
    return never.advance(Event.ATTEMPT_NEVER_STARTED, NOW)


def may_begin(record: TrackedJob, word: ClaimAnswer | None) -> bool:
    return may_start(record, word, NOW)


def words_after_start(words: Words) -> Words:
    """Return what a daemon that has just started still knows of what the endpoint said (`agent/tracking/fence.py`)."""
    return words[:0]


def call_owed(record: TrackedJob, repeat: bool) -> str:
    """Return the call that a record owes, or an empty string (`ReportLoop._owed`)."""
    debt = OWES[record.phase]
    if debt is Debt.FINISH or (repeat and record.verdict is not None):
        return "finish"
    if debt is Debt.RELEASE:
        return "release"
    if debt is Debt.ACCEPT or (repeat and not record.was_given_back):
        return "accept"
    return ""


def beats(record: TrackedJob) -> bool:
    """Return whether heartbeats are sent for a record whose claim isn't known to be lost (`HeartbeatLoop`)."""
    has_heartbeat = "heartbeat" in record.job.extensions
    return record.phase in _BEATS and has_heartbeat and record.job.lease_s is not None


def carried_out(
    job: TrackedJob, targets: tuple[TrackedJob, ...]
) -> tuple[TrackedJob, ...]:
    """Return a cancel job and its targets once it has been carried out, in the order in which they are stored.

    See `RunLoop._cancel_targets`.
    """
    after = tuple(
        each if each.phase in cancel.ENDED else ended(each) for each in targets
    )
    verdict = cancel.verdict(job.job, list(after))
    return (*after, job.advance(Event.DECIDED, NOW, verdict=verdict))


def cancel_targets(
    job: Job, records: tuple[TrackedJob, ...], past: tuple[TrackedJob, ...]
) -> tuple[TrackedJob, ...]:
    found = cancel.targets(job, records)
    if not found and job.target_run_id:
        found = [each for each in past if each.job.id == job.target_run_id]
    return tuple(found)


# The hub.


def claim(job: HubJob, machine: str, token: str) -> HubJob:
    return claim_rules.claim(
        job, machine, token, now=NOW.timestamp(), lease_until=IN_FORCE
    )


def accept(job: HubJob, by: Claim) -> HubJob:
    return claim_rules.accept(job, by, run_id=job.id, now=1.0, lease_until=IN_FORCE)


def finish(job: HubJob, by: Claim, status: str, cause: str) -> HubJob:
    result = Result(status=status, cause=cause)
    return claim_rules.finish(job, by, result=result, now=1.0)


def beat(job: HubJob, by: Claim, phase: str) -> HubJob:
    return claim_rules.beat(
        job, by, standing=Standing(phase=phase), lease_until=IN_FORCE
    )


def release(job: HubJob, by: Claim) -> HubJob:
    return claim_rules.release(job, by, now=OVER)


def take_back(job: HubJob, by: Claim, before: HubJob) -> HubJob:
    return claim_rules.take_back(job, by, before=before, now=OVER)


def expire(job: HubJob) -> HubJob:
    return claim_rules.expire(job, now=1.0, most=MOST_EXPIRIES)


def cancel_job(job: HubJob) -> HubJob:
    return claim_rules.cancel(job, now=1.0)


def submitted(job: HubJob, others: Sequence[HubJob]) -> Submitted:
    """Return a new job and those of the others that it changes (`Admission.admit`)."""
    document = job.document
    if not job.urgent and not may_supersede(document):
        return Submitted(job=job, others=())
    states = (*HELD, *WAITING) if job.urgent else (*HELD, State.QUEUED)
    submission = Submission(id=job.id, document=document, payload="", headers="")
    may_mean = [each for each in others if each.state in states]
    return after_submit(job, submission, may_mean, now=1.0)


def cancel_job_over(job: HubJob, others: Sequence[HubJob]) -> HubJob:
    """Return a queued cancel job, ended once all that it means has ended (`JobStore.end_cancel_jobs`)."""
    wanted = [each for each in others if each.cancel_requested]
    held = [each for each in wanted if each.state in HELD]
    aborted = [each for each in wanted if each.state is State.ABORTED]
    return after_targets(job, held, aborted, now=1.0)


def may_have(job: HubJob, machine: str, cancels_only: bool) -> bool:
    """Return whether a pull of a machine may get a job (`job_queries._FREE`)."""
    is_free = job.state is State.QUEUED and job.only_machine in ("", machine)
    return is_free and (job.urgent or not cancels_only)


def event_job_id(delivery: str, serial: int) -> str:
    """Return the id of the job of an event; `serial` counts the jobs made so far, and means nothing to it."""
    assert serial >= 0
    return JobIds(target="hook", delivery_id=delivery).next("rule")


def is_newest(job: str, shown: tuple[str, ...]) -> bool:
    """Return whether a job is the newest of those with a check of one commit and name (`JobCheck.is_newest`)."""
    return shown[-1] == job


@frozen(kw_only=True)
class Decisions:
    """What is decided, by whom it is decided; each takes values and returns one, or raises."""

    received: Callable[[TrackedJob | None, Job], TrackedJob] = received
    advanced: Callable[[TrackedJob, Event, Verdict | None], TrackedJob] = advanced
    answered: Callable[[TrackedJob, Event], TrackedJob] = answered
    starting: Callable[[TrackedJob], TrackedJob] = starting
    with_process: Callable[[TrackedJob], TrackedJob] = with_process
    given_back: Callable[[TrackedJob], TrackedJob] = given_back
    ended: Callable[[TrackedJob], TrackedJob] = ended
    parked: Callable[[TrackedJob], TrackedJob] = parked
    concluded: Callable[[TrackedJob, int | None, bool], TrackedJob] = concluded
    undone: Callable[[TrackedJob], TrackedJob] = undone
    may_start: Callable[[TrackedJob, ClaimAnswer | None], bool] = may_begin
    """Before an attempt is taken up, and before its gate opens."""
    may_begin: Callable[[TrackedJob, ClaimAnswer | None], bool] = may_begin
    """Once more, after the endpoint had to be asked at the gate."""
    words_after_start: Callable[[Words], Words] = words_after_start
    call_owed: Callable[[TrackedJob, bool], str] = call_owed
    beats: Callable[[TrackedJob], bool] = beats
    carried_out: Callable[
        [TrackedJob, tuple[TrackedJob, ...]], tuple[TrackedJob, ...]
    ] = carried_out
    cancel_targets: Callable[
        [Job, tuple[TrackedJob, ...], tuple[TrackedJob, ...]], tuple[TrackedJob, ...]
    ] = cancel_targets

    claim: Callable[[HubJob, str, str], HubJob] = claim
    accept: Callable[[HubJob, Claim], HubJob] = accept
    finish: Callable[[HubJob, Claim, str, str], HubJob] = finish
    beat: Callable[[HubJob, Claim, str], HubJob] = beat
    release: Callable[[HubJob, Claim], HubJob] = release
    take_back: Callable[[HubJob, Claim, HubJob], HubJob] = take_back
    expire: Callable[[HubJob], HubJob] = expire
    cancel: Callable[[HubJob], HubJob] = cancel_job
    wants_end: Callable[[HubJob], bool] = claim_rules.wants_end
    submitted: Callable[[HubJob, tuple[HubJob, ...]], Submitted] = submitted
    cancel_job_over: Callable[[HubJob, tuple[HubJob, ...]], HubJob] = cancel_job_over
    may_have: Callable[[HubJob, str, bool], bool] = may_have
    event_job_id: Callable[[str, int], str] = event_job_id
    is_newest: Callable[[str, tuple[str, ...]], bool] = is_newest
