"""What has to hold, in words and in code: of every step (`STEPS`), and of the ends that can't be escaped (`is_good`)."""

from collections import defaultdict
from collections.abc import Callable

from attrs import frozen

from explore.bindings import ENDED, HELD, Phase, TrackedJob
from explore.bindings import State as JobState
from explore.model import NAMES, NEWER, Kind, Moment, Run, State, get, token_of

Check = Callable[[State, Moment, State], bool]
"""Whether a moment between two states is as it should be."""


@frozen
class Invariant:
    words: str
    holds: Check


STEPS: list[Invariant] = []


STEPS_OF: defaultdict[str, list[Invariant]] = defaultdict(list)
"""The same by the kind of moment."""


def invariant(moment: str, words: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        made = Invariant(words, check)
        STEPS.append(made)
        for each in moment.split(", "):
            STEPS_OF[each].append(made)
        return check

    return add


NO_END = "From everywhere every job and every cancel gets to its end, or somebody who can pay still owes something."


def is_good(state: State) -> bool:
    """Return whether all is over: each job has ended, and no machine that can speak owes anything."""
    nobody_is_left = all(each.gone or each.revoked for each in state.machines)
    for each in state.hub.jobs:
        waits_for_a_machine = (
            each.state is JobState.QUEUED and not each.only_machine and nobody_is_left
        )
        if each.state not in ENDED and not (
            waits_for_a_machine and each.id not in state.cancelled
        ):
            return False
    owes = any(
        each.records and not (each.revoked or each.gone) for each in state.machines
    )
    waits = any(each.waits for each in state.calls)
    return not owes and not waits


# The fence.


@invariant(
    "begins",
    "A command begins only within a lease that an accept or heartbeat of this claim was granted, in this daemon's life.",
)
def _(before: State, now: Moment, after: State) -> bool:
    record = now.record
    assert record is not None
    granted = record.job.claim_token in before.machines[now.machine].grants
    # The answer at the gate is a part of this step.
    granted_now = record.job.claim_token in after.machines[now.machine].grants
    return granted or granted_now or record.job.lease_s is None


@invariant(
    "begins",
    "A command begins only where the hub has the job with this machine under this claim: of a job no two begin under one believed lease.",
)
def _(before: State, now: Moment, after: State) -> bool:
    record, job = now.record, after.hub.find(now.job.id) if now.job else None
    assert record is not None
    if after.restored or record.job.lease_s is None:
        return True
    is_holder = (
        job is not None
        and job.machine == NAMES[now.machine]
        and job.token_hash == record.job.claim_token
    )
    return is_holder and job is not None and (job.state in HELD or job.lapsed)


@invariant(
    "begins",
    "Where the first command still runs, a second one begins only because the lease of the first was over (patience).",
)
def _(before: State, now: Moment, after: State) -> bool:
    record = now.record
    assert record is not None
    others = [
        each for index, each in enumerate(before.machines) if index != now.machine
    ]
    alive = [each for each in others if get(each.runs, record.job.id) is Run.ALIVE]
    claims = [
        known.job.claim_token for each in alive if (known := each.find(record.job.id))
    ]
    return record.job.claim_token not in claims


@invariant("begins", "Each attempt begins at most once on a machine.")
def _(before: State, now: Moment, after: State) -> bool:
    record = now.record
    assert record is not None
    assert record.attempt is not None
    return (record.job.id, record.attempt.number) not in before.machines[
        now.machine
    ].begun


@invariant(
    "begins",
    "Nothing begins of a job that has a verdict on its machine, is parked, or isn't `running` in its record.",
)
def _(before: State, now: Moment, after: State) -> bool:
    record = now.record
    assert record is not None
    newest = after.machines[now.machine].find(record.job.id)
    return (
        newest is not None and newest.phase is Phase.RUNNING and newest.verdict is None
    )


@invariant("begins", "Nothing begins under a claim for which a release was sent.")
def _(before: State, now: Moment, after: State) -> bool:
    assert now.record is not None
    return now.record.job.claim_token not in before.machines[now.machine].released


@invariant("sent", "A release is durable before it is sent.")
def _(before: State, now: Moment, after: State) -> bool:
    assert now.call is not None
    is_release = now.call.kind is Kind.RELEASE
    return not is_release or (
        now.record is not None and now.record.phase is Phase.RELEASING
    )


@invariant(
    "sent",
    "A release is sent only of a job of which nothing has begun on this machine.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.call is not None
    begun = [job_id for job_id, _ in before.machines[now.machine].begun]
    return now.call.kind is not Kind.RELEASE or now.call.job_id not in begun


# Cancels.


@invariant(
    "begins",
    "Nothing begins of a job whose end this machine has acknowledged, or was told.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.record is not None
    return (
        now.record.job.id
        not in before.machines[now.machine].warned | after.machines[now.machine].warned
    )


@invariant(
    "handed out",
    "No job is handed out whose end was promised to somebody, or that has ended.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.job is not None
    return now.job.id not in before.cancelled and now.job.state is JobState.QUEUED


@invariant(
    "handed out",
    "No commit is handed out once a newer one of its pull request has come.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.job is not None
    return now.job.id != "J" or before.hub.find(NEWER) is None


@invariant(
    "granted",
    "After a cancel, each accept and heartbeat that is agreed to says that the job is to end.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.job is not None
    assert now.call is not None
    assert now.answer is not None
    is_asked = (
        now.call.kind in (Kind.ACCEPT, Kind.CONFIRM, Kind.BEAT)
        and now.answer.status == 200
    )
    return not is_asked or now.job.id not in before.cancelled or now.answer.cancel


@invariant(
    "refused",
    "Whoever still runs a job that the hub has ended by itself is told to end it, and not only refused.",
)
def _(before: State, now: Moment, after: State) -> bool:
    job, call, record = now.job, now.call, now.record
    assert job is not None
    assert call is not None
    assert record is not None
    is_holder = (
        job.machine == NAMES[now.machine] and job.token_hash == record.job.claim_token
    )
    was_cancelled = (
        job.state in (JobState.ABORTED, JobState.SUPERSEDED) and not job.finishes
    )
    return not (call.kind is Kind.BEAT and is_holder and was_cancelled)


# Claims and outcomes.


@invariant(
    "expired",
    "No job is taken from a machine that had it and could speak while the whole lease passed.",
)
def _(before: State, now: Moment, after: State) -> bool:
    assert now.job is not None
    return now.job.token_hash not in before.machines[NAMES.index(now.job.machine)].held


@invariant(
    "refused",
    "Whoever has the newest claim of a job that goes on isn't refused, unless it has given the job back.",
)
def _(before: State, now: Moment, after: State) -> bool:
    job, record, call = now.job, now.record, now.call
    assert job is not None
    assert record is not None
    assert call is not None
    token = record.job.claim_token
    is_newest = (
        get(before.newest, job.id) == token
        and token not in before.machines[now.machine].released
    )
    is_running = call.kind in (Kind.BEAT, Kind.FINISH) and call.stage.value != "late"
    return not (
        is_running and is_newest and job.state not in ENDED and not before.restored
    )


@invariant(
    "granted",
    "A call about a claim is agreed to only where this claim is the newest that counts.",
)
def _(before: State, now: Moment, after: State) -> bool:
    job, record = now.job, now.record
    assert job is not None
    assert record is not None
    return (
        job.token_hash == record.job.claim_token and job.machine == NAMES[now.machine]
    )


@invariant(
    "granted",
    "What was accepted is never merely claimed again, unless it is handed out anew.",
)
def _(before: State, now: Moment, after: State) -> bool:
    job, then = now.job, now.after
    assert job is not None
    assert then is not None
    was_accepted = job.state in HELD and job.state is not JobState.CLAIMED
    return not (was_accepted and then.state is JobState.CLAIMED)


@invariant(
    "granted, expired, cancelled, handed out, taken back",
    "A job has one final outcome: what has ended at the hub doesn't change.",
)
def _(before: State, now: Moment, after: State) -> bool:
    job, then = now.job, now.after
    return not (job and then and job.state in ENDED and job.state is not then.state)


@invariant(
    "granted",
    "A machine's verdict is the outcome at the hub where its finish was agreed to.",
)
def _(before: State, now: Moment, after: State) -> bool:
    record, then, call = now.record, now.after, now.call
    assert record is not None
    assert then is not None
    assert call is not None
    is_finish = call.kind is Kind.FINISH and record.verdict is not None
    return not is_finish or (
        record.verdict is not None and then.state.value == record.verdict.outcome.value
    )


@invariant(
    "step",
    "An outcome is owed until the hub has it, has closed the job, or has handed it out again since.",
)
def _(before: State, now: Moment, after: State) -> bool:
    return all(
        _is_known(after, record)
        for then, machine in zip(before.machines, after.machines, strict=True)
        for record in then.records
        if record.phase is Phase.FINISHING and machine.tracked(record.job.id) is None
    )


def _is_known(state: State, record: TrackedJob) -> bool:
    job = state.hub.find(record.job.id)
    if job is None or job.state in ENDED or job.token_hash != record.job.claim_token:
        return True
    # A refusal can still be on its way when a newer claim, for which it was given, is taken back.
    return record.job.claim_token != token_of(job.id, get(state.handed, job.id) or 0)


@invariant("step", "No record of a job is lost: it is tracked, or in history.")
def _(before: State, now: Moment, after: State) -> bool:
    return all(
        machine.find(record.job.id) is not None
        for then, machine in zip(before.machines, after.machines, strict=True)
        for record in (*then.records, *then.past)
    )


@invariant(
    "bug", "No order of events is a bug: every pair that happens is in the tables."
)
def _(before: State, now: Moment, after: State) -> bool:
    return False


# Events and checks.


@invariant(
    "begins",
    "The job of an event runs once, whatever is sent again or restored; only a lease or a retry makes it begin again.",
)
def _(before: State, now: Moment, after: State) -> bool:
    by_event = [each for each in after.hub.jobs if each.by_event]
    begun = sum(get(after.begun, job_id) or 0 for job_id, _ in after.begun)
    return not by_event or len(after.machines) > 1 or begun <= 1


@invariant(
    "check made", "The newest check of a commit and name is that of the newest job."
)
def _(before: State, now: Moment, after: State) -> bool:
    rows, shown = (
        [each.job_id for each in after.hub.checks],
        [each for each, _ in after.shown],
    )
    return shown == sorted(shown, key=rows.index)
