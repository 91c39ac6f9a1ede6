"""Faults: decisions that were wrong once, or could be, each with a scenario in which a search has to find it."""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from attrs import evolve, frozen

from explore import bindings as real
from explore.bindings import (
    Claim,
    ClaimAnswer,
    Decisions,
    Event,
    HubJob,
    InvalidTransition,
    Job,
    Phase,
    Submitted,
    TrackedJob,
    Verdict,
    Words,
)
from explore.bindings import State as JobState
from explore.model import Scenario
from explore.scenarios import checks, events, one


@frozen(kw_only=True)
class Fault:
    words: str
    decisions: Decisions
    scenario: Scenario
    kind: int = 0
    """The kind of issue that it was, where it was one of today's."""


# 1: a fence with an age.


def _without_age(record: TrackedJob, word: ClaimAnswer | None) -> bool:
    return word is None or word.holds


def _although_refused(record: TrackedJob, word: ClaimAnswer | None) -> bool:
    return real.may_begin(record, word and evolve(word, holds=True))


def _kept(words: Words) -> Words:
    return words


def _always(record: TrackedJob, word: ClaimAnswer | None) -> bool:
    return True


def _given_back_later(record: TrackedJob) -> TrackedJob:
    return record


def _release_from_accepted(record: TrackedJob, repeat: bool) -> str:
    is_unstarted = record.phase is Phase.ACCEPTED and record.is_unstarted
    return "release" if is_unstarted else real.call_owed(record, repeat)


def _starts_after_a_refused_release(record: TrackedJob, event: Event) -> TrackedJob:
    if record.phase is Phase.RELEASING and event is Event.RELEASE_REFUSED:
        return evolve(record, phase=Phase.ACCEPTED)
    return real.answered(record, event)


def _loses_no_start(record: TrackedJob, event: Event) -> TrackedJob:
    return record.advance(event, real.NOW)


def _retried_without_accept(
    record: TrackedJob, event: Event, verdict: Verdict | None
) -> TrackedJob:
    after = real.advanced(record, event, verdict)
    return (
        evolve(after, phase=Phase.ACCEPTED) if event is Event.RESOLVED_RETRY else after
    )


# 2: a cancel is a debt.


def _uncancelled(decide: Callable[..., HubJob]) -> Callable[..., HubJob]:
    """Return a decision of the hub that knows of no cancel, and leaves its mark."""

    def decided(job: HubJob, *args: Any) -> HubJob:
        after = decide(evolve(job, cancel_requested=False), *args)
        return evolve(after, cancel_requested=job.cancel_requested)

    return decided


def _never(job: HubJob) -> bool:
    return False


def _not_over(job: HubJob, others: tuple[HubJob, ...]) -> HubJob:
    return job


def _undone_with_its_stop(record: TrackedJob) -> TrackedJob:
    assert record.attempt is not None
    never = record.without_attempt(record.attempt.number)
    return never.advance(Event.ATTEMPT_NEVER_STARTED, real.NOW)


def _no_cancels_when_full(job: HubJob, machine: str, cancels_only: bool) -> bool:
    return not cancels_only and real.may_have(job, machine, cancels_only)


def _refused_when_cancelled(job: HubJob, by: Claim, phase: str) -> HubJob:
    real.require_holder(job, by)
    return real.beat(job, by, phase)


# 3: silence while reporting.


def _refused_after_its_release(
    job: HubJob, by: Claim, status: str, cause: str
) -> HubJob:
    if job.state is JobState.QUEUED:
        real.require_holder(job, by)
    return real.finish(job, by, status, cause)


def _silent_in_finishing(record: TrackedJob) -> bool:
    return record.phase is not Phase.FINISHING and real.beats(record)


def _claimed_by_a_late_beat(job: HubJob, by: Claim, phase: str) -> HubJob:
    after = real.beat(job, by, phase)
    return (
        evolve(after, state=JobState.CLAIMED)
        if phase == Phase.PENDING_ACCEPT
        else after
    )


def _taken_back_for_good(job: HubJob, by: Claim, before: HubJob) -> HubJob:
    return real.release(job, by)


def _too_late_raises(record: TrackedJob) -> TrackedJob:
    if record.phase is Phase.NEEDS_ATTENTION:
        raise InvalidTransition(
            job_id=record.job.id, phase=record.phase, event="attempt_starting", story=""
        )
    return real.starting(record)


# 9 and 10, and what was never wrong.


def _random_id(delivery: str, serial: int) -> str:
    return str(UUID(int=serial))


def _run_anew(known: TrackedJob | None, job: Job) -> TrackedJob:
    is_over = known is not None and known.phase is Phase.HISTORY
    return real.received(None if is_over else known, job)


def _any_is_newest(job: str, shown: tuple[str, ...]) -> bool:
    return True


def _owes_no_finish(
    record: TrackedJob, event: Event, verdict: Verdict | None
) -> TrackedJob:
    return real.advanced(record, event, verdict)


def _of_any_holder(job: HubJob, by: Claim, *args: Any) -> HubJob:
    return real.accept(evolve(job, machine=by.machine, token_hash=by.token_hash), by)


def _newer_takes_all(job: HubJob, others: tuple[HubJob, ...]) -> Submitted:
    ended = [
        evolve(each, state=JobState.SUPERSEDED)
        for each in others
        if each.state not in real.ENDED
    ]
    return Submitted(job=job, others=ended)


def _forgets_the_newer(decide: Callable[..., HubJob]) -> Callable[..., HubJob]:
    """Return a decision of the hub that doesn't know that a newer commit came."""

    def decided(job: HubJob, *args: Any) -> HubJob:
        return decide(evolve(job, result_summary=""), *args)

    return decided


def _outlasts(job: HubJob) -> HubJob:
    return evolve(real.expire(job), lapsed=False)


FAULTS: Final = (
    Fault(
        kind=1,
        words="The fence has no age: an accept is believed for ever.",
        decisions=Decisions(may_start=_without_age),
        scenario=one("cut", cut=1),
    ),
    Fault(
        kind=1,
        words="A restarted daemon believes what an earlier one heard.",
        decisions=Decisions(
            words_after_start=_kept, may_start=_without_age, may_begin=_without_age
        ),
        scenario=one("kill", kill=1),
    ),
    Fault(
        kind=1,
        words="An answer that came after its lease opens the gate.",
        decisions=Decisions(may_begin=_always),
        scenario=one("naps", 1, nap=2, split=True),
    ),
    Fault(
        kind=1,
        words="A refused release lets the job start.",
        decisions=Decisions(answered=_starts_after_a_refused_release),
        scenario=one("drain and loss", drain=1, loss=1),
    ),
    Fault(
        kind=1,
        words="A release is sent before it is durable.",
        decisions=Decisions(
            given_back=_given_back_later, call_owed=_release_from_accepted
        ),
        scenario=one("drain", drain=1),
    ),
    Fault(
        kind=1,
        words="A claim that is lost before the command has begun doesn't end the start.",
        decisions=Decisions(answered=_loses_no_start, may_start=_although_refused),
        scenario=one("cut", cut=1),
    ),
    Fault(
        kind=1,
        words="A parked job that is tried again starts without a new accept.",
        decisions=Decisions(advanced=_retried_without_accept, may_start=_without_age),
        scenario=one("park and cut", park=1, retry=1, cut=1),
    ),
    Fault(
        kind=2,
        words="A cancelled job is queued again when it is released.",
        decisions=Decisions(release=_uncancelled(real.release)),
        scenario=one("cancel and drain", cancel=1, drain=1),
    ),
    Fault(
        kind=2,
        words="A cancelled job is queued again when its lease ends.",
        decisions=Decisions(expire=_uncancelled(real.expire)),
        scenario=one("cancel and cut", cancel=1, cut=1),
    ),
    Fault(
        kind=2,
        words="A cancelled job is accepted, and nobody says so.",
        decisions=Decisions(accept=_uncancelled(real.accept), wants_end=_never),
        scenario=one("cancel", cancel=1),
    ),
    Fault(
        kind=2,
        words="Undoing an attempt that never began forgets that its end was wanted.",
        decisions=Decisions(undone=_undone_with_its_stop),
        scenario=one("local cancel and kill", 1, local_cancel=1, kill=1),
    ),
    Fault(
        kind=2,
        words="A cancel job waits for ever for a machine that is gone.",
        decisions=Decisions(cancel_job_over=_not_over),
        scenario=one("cancel job and end of a machine", 1, cancel_job=1, gone=1),
    ),
    Fault(
        kind=2,
        words="A machine without room never gets cancel jobs.",
        decisions=Decisions(may_have=_no_cancels_when_full),
        scenario=evolve(one("cancel job, bare", 1, bare=True, cancel_job=1), room=1),
    ),
    Fault(
        kind=2,
        words="Whoever still runs a cancelled job is refused, and not told.",
        decisions=Decisions(beat=_refused_when_cancelled),
        scenario=one("cancel and cut", cancel=1, cut=1),
    ),
    Fault(
        kind=2,
        words="Somebody ends a job while its release is on the way, and the hub refuses to hear of it.",
        decisions=Decisions(finish=_refused_after_its_release),
        scenario=one(
            "local cancel of what goes back", 1, local_cancel=1, drain=1, loss=1
        ),
    ),
    Fault(
        kind=3,
        words="Heartbeats end before the finish is answered.",
        decisions=Decisions(beats=_silent_in_finishing),
        scenario=one("loss", 1, loss=1),
    ),
    Fault(
        kind=3,
        words="A late heartbeat from before the accept takes it back.",
        decisions=Decisions(beat=_claimed_by_a_late_beat),
        scenario=one("double beat", 1, races=True, double=1),
    ),
    Fault(
        kind=3,
        words="A claim that never reached its machine ends the one before it.",
        decisions=Decisions(take_back=_taken_back_for_good),
        scenario=one("cut and loss", cut=1, loss=1),
    ),
    Fault(
        kind=3,
        words="A start that comes too late for a parked job is a bug.",
        decisions=Decisions(starting=_too_late_raises),
        scenario=one("park, races", 1, races=True, park=1),
    ),
    Fault(
        kind=9,
        words="Ids of jobs of events are random.",
        decisions=Decisions(event_job_id=_random_id),
        scenario=events("restore", event=1, backup=1, restore=1),
    ),
    Fault(
        kind=10,
        words="A check is made though a newer job has one.",
        decisions=Decisions(is_newest=_any_is_newest),
        scenario=checks("requeue with checks", requeue=1),
    ),
    Fault(
        words="A job in history that is handed out again is run anew.",
        decisions=Decisions(received=_run_anew),
        scenario=events("restore", event=1, backup=1, restore=1),
    ),
    Fault(
        words="Any claim token is taken for an accept.",
        decisions=Decisions(accept=_of_any_holder),
        scenario=one("double and drain", double=1, drain=1),
    ),
    Fault(
        words="A newer commit ends what machines have.",
        decisions=Decisions(submitted=_newer_takes_all),
        scenario=one("commit", 1, commit=1),
    ),
    Fault(
        words="What its machine hands back is queued again though a newer commit has come.",
        decisions=Decisions(release=_forgets_the_newer(real.release)),
        scenario=one("newer commit and drain", commit=1, drain=1),
    ),
    Fault(
        words="What its machine has lost is queued again though a newer commit has come.",
        decisions=Decisions(expire=_forgets_the_newer(real.expire)),
        scenario=one("newer commit and end of a machine", commit=1, gone=1),
    ),
    Fault(
        words="A late result of a job whose lease is over is refused, though nobody else has it.",
        decisions=Decisions(expire=_outlasts),
        scenario=one("cut", cut=1),
    ),
)
