"""Machine: what its loops, its runs, its kernel and its operator can do next."""

from collections.abc import Iterator

from explore import surroundings
from explore.answers import begins, may_start, without_start
from explore.bindings import (
    STARTABLE,
    UNFINISHED,
    Phase,
    TrackedJob,
)
from explore.model import (
    IS_OVER,
    PULLS,
    REPORTS,
    Call,
    Kind,
    Machine,
    Mode,
    Moment,
    Run,
    State,
    Step,
    get,
)
from explore.network import next_job, sent
from explore.turn import Turn, dead
from explore.world import Bug, World

_CODES = {
    Run.EXIT_0: 0,
    Run.BLOCKED: 0,
    Run.SIGNAL: 139,
    Run.KILLED: 143,
    Run.LOST: None,
}


def steps(world: World, state: State, index: int) -> Iterator[Step]:
    """Yield what can happen on a machine."""
    turn = Turn(world, state, index)
    machine = turn.machine
    yield from surroundings.steps(turn)
    if not machine.up or not machine.awake:
        return
    for record in machine.records:
        yield from _run(turn, record)
    for job_id, run in machine.runs:
        if run is not Run.ALIVE and machine.tracked(job_id) is None:
            # The endpoint has closed the job meanwhile; its task ends, and its slot is free.
            yield turn.step(f"leaves {job_id[:6]}", machine.with_run(job_id, None))
    if machine.linked and not machine.revoked:
        yield from _calls(turn)


def _calls(turn: Turn) -> Iterator[Step]:
    world, state, machine = turn.world, turn.state, turn.machine
    kind = _pull(turn)
    pull = Call(kind=kind, machine=turn.index)
    if not state.waits(turn.index, "", *PULLS) and next_job(world, state, pull):
        yield from sent(world, state, pull)
    for job_id in sorted(
        {record.job.id for record in machine.records} | machine.repeats
    ):
        record = machine.find(job_id)
        assert record is not None
        owed = world.ask(world.decisions.call_owed, record, job_id in machine.repeats)
        if not state.waits(turn.index, job_id, *REPORTS):
            if owed:
                yield from sent(
                    world,
                    state,
                    Call(kind=Kind(owed), machine=turn.index, record=record),
                )
            elif job_id in machine.repeats:
                repeats = machine.repeats - {job_id}
                yield turn.step(
                    f"owes nothing for {job_id[:6]}", machine._replace(repeats=repeats)
                )
        if _is_due(turn, record):
            yield from sent(
                world, state, Call(kind=Kind.BEAT, machine=turn.index, record=record)
            )


def _pull(turn: Turn) -> Kind:
    """Return what a machine asks for: with room a job, else cancel jobs alone (`PullLoop`)."""
    machine = turn.machine
    busy = sum(
        not each.job.is_cancel for each in machine.records if each.phase in UNFINISHED
    )
    has_room = busy < turn.world.scenario.room and machine.mode is Mode.PULLING
    return Kind.PULL if has_room else Kind.CANCELS


def may_beat(world: World, machine: Machine, record: TrackedJob) -> bool:
    """Return whether heartbeats are sent for a record (`HeartbeatLoop._pause_s`)."""
    word = get(machine.words, record.job.id)
    is_lost = (
        word is not None
        and not word.holds
        and word.claim_token == record.job.claim_token
    )
    return not is_lost and world.ask(world.decisions.beats, record)


def _is_due(turn: Turn, record: TrackedJob) -> bool:
    """Return whether a beat would change something; others are left out."""
    job = turn.state.hub.find(record.job.id)
    if turn.machine.tracked(record.job.id) is None or not may_beat(
        turn.world, turn.machine, record
    ):
        return False
    if turn.state.waits(turn.index, record.job.id, Kind.BEAT):
        return False
    if job is None or job.token_hash != record.job.claim_token or job.lapsed:
        return True
    if record.phase is Phase.PENDING_ACCEPT and not turn.world.scenario.races:
        return False
    wants_end = turn.world.ask(turn.world.decisions.wants_end, job)
    knows = record.is_cancelled or record.phase is Phase.FINISHING
    return (
        job.phase != record.phase.value
        or not job.lease_until
        or (wants_end and not knows)
    )


def _run(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    """Yield what the run loop does for a job."""
    machine, job_id, run = (
        turn.machine,
        record.job.id,
        get(turn.machine.runs, record.job.id),
    )
    short = job_id[:6]
    if run is None and record.phase is Phase.RUNNING:
        yield turn.step(
            f"finds {short} without a process", machine.with_run(job_id, Run.NEVER)
        )
    elif (
        run is None and record.phase in STARTABLE and machine.mode is not Mode.STOPPING
    ):
        yield from _take_up(turn, record)
    elif run is Run.TAKEN:
        yield _start(turn, record)
    elif run in (Run.STARTING, Run.GATED) and (
        record.phase is not Phase.RUNNING or record.stop_requested
    ):
        yield turn.step(
            f"gives the start of {short} up", without_start(machine, job_id)
        )
    elif run in (Run.STARTING, Run.GATED):
        yield from _gate(turn, record, run)
    elif run is Run.ALIVE and record.stop_requested:
        killed = machine.with_run(job_id, Run.KILLED)
        yield turn.step(f"ends {short} by signals", killed)
    elif run is Run.NEVER or run in IS_OVER:
        yield _conclude(turn, record, run)


def _take_up(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    machine, job_id = turn.machine, record.job.id
    if record.job.is_cancel:
        yield from _carry_out(turn, record)
        return
    if len(machine.runs) >= turn.world.scenario.slots:
        return
    if not may_start(turn.world, machine, record):
        if job_id not in machine.repeats:
            yield turn.step(
                f"asks before {job_id[:6]}",
                machine._replace(repeats=machine.repeats | {job_id}),
            )
        return
    taken = machine.with_run(job_id, Run.TAKEN)
    if turn.world.scenario.races:
        yield turn.step(f"takes {job_id[:6]} up", taken)
    else:
        yield _start(Turn(turn.world, turn.with_machine(taken), turn.index), record)


def _start(turn: Turn, record: TrackedJob) -> Step:
    job_id = record.job.id
    step = turn.change(
        f"is about to start {job_id[:6]}", job_id, turn.world.decisions.starting
    )
    after = step.after.machines[turn.index]
    now = after.tracked(job_id)
    is_running = now is not None and now.phase is Phase.RUNNING
    after = after.with_run(job_id, Run.STARTING if is_running else None)
    return step._replace(after=step.after.with_machine(turn.index, after))


def _gate(turn: Turn, record: TrackedJob, run: Run) -> Iterator[Step]:
    if run is Run.STARTING:
        job_id = record.job.id
        label = f"has {job_id[:6]} behind its gate"
        step = turn.change(label, job_id, turn.world.decisions.with_process)
        gated = step.after.machines[turn.index].with_run(job_id, Run.GATED)
        yield step._replace(after=step.after.with_machine(turn.index, gated))
        return
    if may_start(turn.world, turn.machine, record):
        after, seen = begins(turn.state, turn.index, record)
        yield Step(
            label=f"{turn.name} opens the gate of {record.job.id[:6]}",
            after=after,
            moments=seen,
        )
    elif turn.machine.linked and not turn.state.waits(
        turn.index, record.job.id, Kind.CONFIRM
    ):
        yield from sent(
            turn.world,
            turn.state,
            Call(kind=Kind.CONFIRM, machine=turn.index, record=record),
        )


def _conclude(turn: Turn, record: TrackedJob, run: Run) -> Step:
    world = turn.world

    def decide(newest: TrackedJob) -> TrackedJob:
        if run is Run.NEVER:
            return world.ask(world.decisions.undone, newest)
        return world.ask(
            world.decisions.concluded, newest, _CODES[run], run is Run.BLOCKED
        )

    job_id = record.job.id
    if record.phase is not Phase.RUNNING:
        return turn.step(f"leaves {job_id[:6]}", turn.machine.with_run(job_id, None))
    try:
        machine = turn.machine.stored(decide(record)).with_run(job_id, None)
    except Bug as error:
        moment = Moment("bug", turn.index, record, words=str(error))
        return Step(
            label=f"{turn.name} concludes {job_id[:6]}",
            after=turn.state,
            moments=(moment,),
        )
    return turn.step(f"concludes {job_id[:6]}: {run.value}", machine)


def _carry_out(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    """Yield the end of what a cancel job means, and a kill after each record of that."""
    world, machine = turn.world, turn.machine
    targets = world.ask(
        world.decisions.cancel_targets, record.job, machine.records, machine.past
    )
    label = f"carries {record.job.id[:6]} out"
    try:
        stored = world.ask(world.decisions.carried_out, record, targets)
    except Bug as error:
        moment = Moment("bug", turn.index, record, words=str(error))
        yield Step(label=f"{turn.name} {label}", after=turn.state, moments=(moment,))
        return
    for count, each in enumerate(stored, start=1):
        if each.phase is not Phase.HISTORY:
            machine = machine.stored(each)
        if not each.job.is_cancel:
            machine = machine._replace(warned=machine.warned | {each.job.id})
        if count == len(stored):
            yield turn.step(label, machine)
        elif turn.state.left("kill"):
            after = dead(world, turn.with_machine(machine, "kill"), turn.index)
            yield Step(
                label=f"{turn.name} {label}, and is killed after {count} of {len(stored)}",
                after=after,
                fair=False,
            )
