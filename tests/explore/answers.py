"""Answers: what a machine's loops make of what the endpoint says, and of its silence."""

from collections.abc import Callable

from explore.bindings import (
    LEASE_S,
    LONG_AGO,
    NOW,
    ClaimAnswer,
    Event,
    HubJob,
    Job,
    Phase,
    TrackedJob,
)
from explore.model import (
    IS_OVER,
    PULLS,
    Answer,
    Call,
    Kind,
    Machine,
    Moment,
    Run,
    State,
    get,
    put,
)
from explore.world import Bug, World

_CLOSED = (404, 409, 410)
_EVENTS = {
    Kind.ACCEPT: (Event.ACCEPT_CONFIRMED, Event.ACCEPT_REFUSED),
    Kind.FINISH: (Event.FINISH_ACKNOWLEDGED, Event.FINISH_REFUSED),
    Kind.RELEASE: (Event.RELEASED, Event.RELEASE_REFUSED),
    Kind.BEAT: (None, Event.LEASE_LOST),
    Kind.CONFIRM: (None, None),
}
"""The events of a call's two ends (`agent/loops/report.py`, `agent/loops/heartbeat.py`, `agent/run_loop/attempt.py`)."""

Done = tuple[State, tuple[Moment, ...]]


def at_machine(world: World, state: State, call: Call, answer: Answer) -> Done:
    """Return what an answer comes to on the machine that has waited for it."""
    try:
        if call.kind in PULLS:
            return _received(world, state, call, answer)
        if answer.status == 200:
            return _agreed(world, state, call, answer)
        if answer.status in _CLOSED:
            return _closed(world, state, call)
    except Bug as error:
        return state, (Moment("bug", call.machine, call.record, words=str(error)),)
    return (_given_up(state, call) if call.kind is Kind.CONFIRM else state), ()


def changed(
    world: World,
    machine: Machine,
    job_id: str,
    decide: Callable[[TrackedJob], TrackedJob],
) -> Machine:
    """Return a machine with a job's newest record changed; what is in history stays as it is (`Tracker._replace`).

    Fails with Bug.
    """
    record = machine.find(job_id)
    assert record is not None
    after = world.ask(decide, record)
    return machine if record.phase is Phase.HISTORY else machine.stored(after)


def may_start(
    world: World, machine: Machine, record: TrackedJob, *, asked: bool = False
) -> bool:
    """Return whether a process of a job may begin now (`Fence.allows`)."""
    decide = world.decisions.may_begin if asked else world.decisions.may_start
    word = get(machine.words, record.job.id)
    return record.job.id not in machine.repeats and world.ask(decide, record, word)


def begins(state: State, index: int, record: TrackedJob) -> Done:
    """Open the gate of an attempt."""
    machine, job_id = state.machines[index], record.job.id
    assert record.attempt is not None
    begun = machine.begun | {(job_id, record.attempt.number)}
    after = machine.with_run(job_id, Run.ALIVE)._replace(begun=begun)
    count = min((get(state.begun, job_id) or 0) + 1, 2)
    moment = Moment("begins", index, record, state.hub.find(job_id))
    state = state._replace(begun=put(state.begun, job_id, count))
    return state.with_machine(index, after), (moment,)


def _received(world: World, state: State, call: Call, answer: Answer) -> Done:
    if answer.job is None:
        return state, ()
    machine = state.machines[call.machine]
    job = as_handed_out(answer.job, answer.token, bare=world.scenario.bare)
    known = machine.find(job.id)
    record = world.ask(world.decisions.received, known, job)
    if known is not None and not known.was_given_back:
        machine = machine._replace(repeats=machine.repeats | {job.id})
    return state.with_machine(call.machine, machine.stored(record)), ()


def as_handed_out(job: HubJob, token: str, *, bare: bool) -> Job:
    """Return a job as its machine reads it."""
    document = job.document
    shown = ("capabilities",) if bare else ("capabilities", "heartbeat", "release")
    return Job(
        id=job.id,
        workflow=str(document.get("dag_name") or ""),
        command=str(document.get("command") or ""),
        target_run_id=str(document.get("dag_run_id") or ""),
        claim_token=token,
        lease_s=None if bare else LEASE_S,
        extensions=shown,
    )


def _agreed(world: World, state: State, call: Call, answer: Answer) -> Done:
    """Take an agreement (`Fence.accept`, `HeartbeatLoop._beat`, `ReportLoop._pay`, `Fence.confirm`)."""
    record = call.record
    assert record is not None
    machine, job_id = state.machines[call.machine], call.job_id
    if call.kind in (Kind.ACCEPT, Kind.CONFIRM, Kind.BEAT):
        if answer.cancel:
            machine = machine._replace(warned=machine.warned | {job_id})
            decided = record.is_cancelled or record.phase is Phase.FINISHING
            if call.kind is not Kind.BEAT or not decided:
                machine = changed(world, machine, job_id, world.decisions.ended)
        if call.fresh:
            machine = machine._replace(grants=machine.grants | {record.job.claim_token})
        machine = _noted(machine, call, holds=True)
    state = state.with_machine(call.machine, machine)
    if call.kind is Kind.CONFIRM:
        return _at_the_gate(world, state, call)
    return _settled(world, state, call, _EVENTS[call.kind][0])


def _closed(world: World, state: State, call: Call) -> Done:
    """Take a refusal."""
    record = call.record
    assert record is not None
    machine = state.machines[call.machine]
    if call.kind is Kind.BEAT and _has_finished_since(machine, record):
        return state, ()
    if call.kind in (Kind.ACCEPT, Kind.CONFIRM, Kind.BEAT):
        machine = machine._replace(grants=machine.grants - {record.job.claim_token})
        state = state.with_machine(call.machine, _noted(machine, call, holds=False))
    if call.kind is Kind.CONFIRM:
        return _given_up(state, call), ()
    return _settled(world, state, call, _EVENTS[call.kind][1])


def _settled(world: World, state: State, call: Call, event: Event | None) -> Done:
    """Advance a job by an answer, unless it is about an older claim (`Tracker.answered`)."""
    machine, record = state.machines[call.machine], call.record
    assert record is not None
    known = machine.find(call.job_id)
    if (
        event is None
        or known is None
        or known.job.claim_token != record.job.claim_token
    ):
        return state, ()
    machine = machine._replace(repeats=machine.repeats - {call.job_id})
    after = world.ask(world.decisions.answered, known, event)
    if known.phase is not Phase.HISTORY:
        machine = machine.stored(after)
    return state.with_machine(call.machine, machine), ()


def _at_the_gate(world: World, state: State, call: Call) -> Done:
    """Open the gate after the endpoint was asked, if the newest record still wants that."""
    machine = state.machines[call.machine]
    newest, run = machine.tracked(call.job_id), get(machine.runs, call.job_id)
    may = (
        newest is not None
        and newest.phase is Phase.RUNNING
        and not newest.stop_requested
    )
    if (
        run is Run.GATED
        and newest
        and may
        and may_start(world, machine, newest, asked=True)
    ):
        return begins(state, call.machine, newest)
    return _given_up(state, call), ()


def _given_up(state: State, call: Call) -> State:
    """Return the state once a start has been given up: its gate closes, and the shim ends."""
    machine = state.machines[call.machine]
    run = get(machine.runs, call.job_id)
    if run is None or run is Run.ALIVE or run in IS_OVER:
        return state
    return state.with_machine(call.machine, without_start(machine, call.job_id))


def without_start(machine: Machine, job_id: str) -> Machine:
    """Return a machine after a start that came to nothing; its runner concludes what still runs by its record."""
    record = machine.tracked(job_id)
    runs = record is not None and record.phase is Phase.RUNNING
    return machine.with_run(job_id, Run.NEVER if runs else None)


def _noted(machine: Machine, call: Call, *, holds: bool) -> Machine:
    """Take note of what the endpoint has said (`Fence.note`)."""
    record = call.record
    assert record is not None
    asked_at = NOW if call.fresh else LONG_AGO
    token, known = record.job.claim_token, get(machine.words, call.job_id)
    is_older = (
        known is not None and known.claim_token == token and asked_at < known.asked_at
    )
    if is_older or machine.tracked(call.job_id) is None:
        return machine
    word = ClaimAnswer(claim_token=token, asked_at=asked_at, holds=holds)
    return machine.with_word(call.job_id, word)


def _has_finished_since(machine: Machine, asked: TrackedJob) -> bool:
    """Return whether the refusal of a beat only says that the finish has overtaken it."""
    now = machine.tracked(asked.job.id)
    if now is None:
        return True
    return now.phase is Phase.FINISHING and asked.phase is not Phase.FINISHING
