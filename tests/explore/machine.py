"""Machine: what its loops, its runs, its kernel and its operator can do next."""

from collections.abc import Callable, Iterator

from attrs import frozen

from explore.answers import begins, changed, may_start, without_start
from explore.bindings import STARTABLE, UNFINISHED, Event, Outcome, Phase, TrackedJob, Verdict
from explore.model import (
    IS_OVER,
    NAMES,
    PULLS,
    REPORTS,
    Bug,
    Call,
    Kind,
    Machine,
    Mode,
    Moment,
    Run,
    Stage,
    State,
    Step,
    World,
    get,
)
from explore.network import next_job, sent

_CODES = {Run.EXIT_0: 0, Run.BLOCKED: 0, Run.SIGNAL: 139, Run.KILLED: 143, Run.LOST: None}
_SUCCEEDED = Verdict(outcome=Outcome.SUCCEEDED, summary="")
_ENDS = {Run.SIGNAL: "signal", Run.BLOCKED: "block"}
"""How a command may end beside exit 0, and the budget of that."""


@frozen
class Turn:
    """One machine's turn: the state, and what it can do."""

    world: World
    state: State
    index: int

    @property
    def machine(self) -> Machine:
        return self.state.machines[self.index]

    @property
    def name(self) -> str:
        return NAMES[self.index]

    def with_machine(self, machine: Machine, spent: str = "") -> State:
        state = self.state.spend(spent) if spent else self.state
        return state.with_machine(self.index, machine)

    def step(self, label: str, machine: Machine, spent: str = "", *, fair: bool = True) -> Step:
        return Step(label=f"{self.name} {label}", after=self.with_machine(machine, spent), fair=fair)

    def change(
        self, label: str, job_id: str, decide: Callable[[TrackedJob], TrackedJob], spent: str = "", *, fair: bool = True
    ) -> Step:
        """Return the step in which a job's newest record is changed under its lock."""
        try:
            return self.step(label, changed(self.world, self.machine, job_id, decide), spent, fair=fair)
        except Bug as error:
            moment = Moment("bug", self.index, self.machine.find(job_id), words=str(error))
            return Step(label=f"{self.name} {label}", after=self.state, fair=fair, moments=(moment,))


def steps(world: World, state: State, index: int) -> Iterator[Step]:
    """Yield what can happen on a machine."""
    turn = Turn(world, state, index)
    machine = turn.machine
    yield from _kernel(turn)
    yield from _misfortune(turn)
    if not machine.up or not machine.awake:
        return
    yield from _operator(turn)
    yield from _hand_back(turn)
    for record in machine.records:
        yield from _run(turn, record)
    if machine.linked and not machine.revoked:
        yield from _calls(turn)


def _calls(turn: Turn) -> Iterator[Step]:
    world, state, machine = turn.world, turn.state, turn.machine
    kind = _pull(turn)
    pull = Call(kind=kind, machine=turn.index)
    if not state.waits(turn.index, "", *PULLS) and next_job(world, state, pull):
        yield from sent(world, state, pull)
    for job_id in sorted({record.job.id for record in machine.records} | machine.repeats):
        record = machine.find(job_id)
        assert record is not None
        owed = world.ask(world.decisions.call_owed, record, job_id in machine.repeats)
        if not state.waits(turn.index, job_id, *REPORTS):
            if owed:
                yield from sent(world, state, Call(kind=Kind(owed), machine=turn.index, record=record))
            elif job_id in machine.repeats:
                repeats = machine.repeats - {job_id}
                yield turn.step(f"owes nothing for {job_id[:6]}", machine._replace(repeats=repeats))
        if _is_due(turn, record):
            yield from sent(world, state, Call(kind=Kind.BEAT, machine=turn.index, record=record))


def _pull(turn: Turn) -> Kind:
    """Return what a machine asks for: with room a job, else cancel jobs alone (`PullLoop`)."""
    machine = turn.machine
    busy = sum(not each.job.is_cancel for each in machine.records if each.phase in UNFINISHED)
    has_room = busy < turn.world.scenario.room and machine.mode is Mode.PULLING
    return Kind.PULL if has_room else Kind.CANCELS


def may_beat(world: World, machine: Machine, record: TrackedJob) -> bool:
    """Return whether heartbeats are sent for a record (`HeartbeatLoop._pause_s`)."""
    word = get(machine.words, record.job.id)
    is_lost = word is not None and not word.holds and word.claim_token == record.job.claim_token
    return not is_lost and world.ask(world.decisions.beats, record)


def _is_due(turn: Turn, record: TrackedJob) -> bool:
    """Return whether a beat would change something; others are left out."""
    job = turn.state.hub.find(record.job.id)
    if turn.machine.tracked(record.job.id) is None or not may_beat(turn.world, turn.machine, record):
        return False
    if turn.state.waits(turn.index, record.job.id, Kind.BEAT):
        return False
    if job is None or job.token_hash != record.job.claim_token or job.lapsed:
        return True
    if record.phase is Phase.PENDING_ACCEPT and not turn.world.scenario.races:
        return False
    wants_end = turn.world.ask(turn.world.decisions.wants_end, job)
    knows = record.is_cancelled or record.phase is Phase.FINISHING
    return job.phase != record.phase.value or not job.lease_until or (wants_end and not knows)


def _run(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    """Yield what the run loop does for a job."""
    machine, job_id, run = turn.machine, record.job.id, get(turn.machine.runs, record.job.id)
    short = job_id[:6]
    if run is None and record.phase is Phase.RUNNING:
        yield turn.step(f"finds {short} without a process", machine.with_run(job_id, Run.NEVER))
    elif run is None and record.phase in STARTABLE and machine.mode is not Mode.STOPPING:
        yield from _take_up(turn, record)
    elif run is Run.TAKEN:
        yield _start(turn, record)
    elif run in (Run.STARTING, Run.GATED) and (record.phase is not Phase.RUNNING or record.is_wanted_dead):
        yield turn.step(f"gives the start of {short} up", without_start(machine, job_id))
    elif run is Run.STARTING:
        step = turn.change(f"has {short} behind its gate", job_id, turn.world.decisions.with_process)
        after = step.after.machines[turn.index].with_run(job_id, Run.GATED)
        yield step._replace(after=step.after.with_machine(turn.index, after))
    elif run is Run.GATED:
        yield from _gate(turn, record)
    elif run is Run.ALIVE and record.is_wanted_dead:
        yield turn.step(f"ends {short} by signals", machine.with_run(job_id, Run.KILLED))
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
            yield turn.step(f"asks before {job_id[:6]}", machine._replace(repeats=machine.repeats | {job_id}))
        return
    taken = machine.with_run(job_id, Run.TAKEN)
    if turn.world.scenario.races:
        yield turn.step(f"takes {job_id[:6]} up", taken)
    else:
        yield _start(Turn(turn.world, turn.with_machine(taken), turn.index), record)


def _start(turn: Turn, record: TrackedJob) -> Step:
    job_id = record.job.id
    step = turn.change(f"is about to start {job_id[:6]}", job_id, turn.world.decisions.starting)
    after = step.after.machines[turn.index]
    now = after.tracked(job_id)
    is_running = now is not None and now.phase is Phase.RUNNING
    after = after.with_run(job_id, Run.STARTING if is_running else None)
    return step._replace(after=step.after.with_machine(turn.index, after))


def _gate(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    if may_start(turn.world, turn.machine, record):
        after, seen = begins(turn.state, turn.index, record)
        yield Step(label=f"{turn.name} opens the gate of {record.job.id[:6]}", after=after, moments=seen)
    elif turn.machine.linked and not turn.state.waits(turn.index, record.job.id, Kind.CONFIRM):
        yield from sent(turn.world, turn.state, Call(kind=Kind.CONFIRM, machine=turn.index, record=record))


def _conclude(turn: Turn, record: TrackedJob, run: Run) -> Step:
    world = turn.world

    def decide(newest: TrackedJob) -> TrackedJob:
        if run is Run.NEVER:
            return world.ask(world.decisions.undone, newest)
        return world.ask(world.decisions.concluded, newest, _CODES[run], run is Run.BLOCKED)

    job_id = record.job.id
    if record.phase is not Phase.RUNNING:
        return turn.step(f"leaves {job_id[:6]}", turn.machine.with_run(job_id, None))
    try:
        machine = turn.machine.stored(decide(record)).with_run(job_id, None)
    except Bug as error:
        moment = Moment("bug", turn.index, record, words=str(error))
        return Step(label=f"{turn.name} concludes {job_id[:6]}", after=turn.state, moments=(moment,))
    return turn.step(f"concludes {job_id[:6]}: {run.value}", machine)


def _carry_out(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    """Yield the end of what a cancel job means, and a kill after each record of that."""
    world, machine = turn.world, turn.machine
    targets = world.ask(world.decisions.cancel_targets, record.job, machine.records, machine.past)
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
            yield Step(label=f"{turn.name} {label}, and is killed after {count} of {len(stored)}", after=after, fair=False)


def _hand_back(turn: Turn) -> Iterator[Step]:
    """Yield what a drain and a stop do: hand back what has not started."""
    machine, give_back = turn.machine, turn.world.decisions.given_back
    if machine.mode is Mode.PULLING:
        return
    for record in machine.records:
        job = record.job
        may_go = record.is_unstarted and not job.is_cancel and "release" in job.extensions
        if may_go and not turn.state.waits(turn.index, job.id, Kind.RELEASE):
            yield turn.change(f"gives {job.id[:6]} back", job.id, give_back)
    if machine.mode is Mode.DRAINING:
        yield turn.step("resumes", machine._replace(mode=Mode.PULLING))
    else:
        yield Step(label=f"{turn.name} has stopped", after=dead(turn.world, turn.state, turn.index))


def _operator(turn: Turn) -> Iterator[Step]:
    machine, state = turn.machine, turn.state
    decisions = turn.world.decisions
    for mode, budget in ((Mode.DRAINING, "drain"), (Mode.STOPPING, "stop")):
        if machine.mode is Mode.PULLING and state.left(budget):
            yield turn.step(f"is told to be {mode}", machine._replace(mode=mode), budget, fair=False)
    for record in machine.records:
        job_id, short = record.job.id, record.job.id[:6]
        if record.job.is_cancel:
            continue
        if state.left("local cancel") and record.phase is not Phase.FINISHING:
            step = turn.change(f"is told to cancel {short}", job_id, decisions.ended, "local cancel", fair=False)
            after = step.after.machines[turn.index]
            after = after._replace(warned=after.warned | {job_id})
            yield step._replace(after=step.after.with_machine(turn.index, after))
        if state.left("park") and record.phase in UNFINISHED and not record.is_wanted_dead:
            yield turn.change(f"is told to park {short}", job_id, decisions.parked, "park", fair=False)
        if record.phase is Phase.NEEDS_ATTENTION:
            for event, verdict in ((Event.RESOLVED, _SUCCEEDED), (Event.RESOLVED_RETRY, None)):
                if verdict or state.left("retry"):
                    after = turn.world.ask(decisions.advanced, record, event, verdict)
                    label = f"is told {event} for {short}"
                    yield turn.step(label, machine.stored(after), "" if verdict else "retry", fair=bool(verdict))


def _kernel(turn: Turn) -> Iterator[Step]:
    """Yield how commands end by themselves: fair only where nobody who could end them was asked to."""
    machine = turn.machine
    for job_id, run in machine.runs:
        if run is Run.ALIVE:
            is_fair = not _is_to_end(turn, job_id)
            yield turn.step(f"sees {job_id[:6]} exit with 0", machine.with_run(job_id, Run.EXIT_0), fair=is_fair)
            for end, budget in _ENDS.items():
                if turn.state.left(budget):
                    yield turn.step(f"sees {job_id[:6]} end: {end}", machine.with_run(job_id, end), budget, fair=False)


def _is_to_end(turn: Turn, job_id: str) -> bool:
    """Return whether somebody wants the end of a run that its machine can hear of, under the claim that counts."""
    record = turn.machine.tracked(job_id)
    counts = record is not None and record.job.claim_token == get(turn.state.newest, job_id)
    return counts and job_id in turn.state.cancelled | turn.machine.warned


def _misfortune(turn: Turn) -> Iterator[Step]:
    """Yield kills, cuts, naps, the end of a machine, and the ends of those."""
    machine, state, index = turn.machine, turn.state, turn.index
    if machine.gone:
        return
    if not machine.up:
        yield turn.step("starts again", machine._replace(up=True, mode=Mode.PULLING))
        if state.left("reboot") and any(run is Run.ALIVE for _, run in machine.runs):
            runs = tuple((each, Run.LOST if run is Run.ALIVE else run) for each, run in machine.runs)
            yield turn.step("reboots", machine._replace(runs=runs), "reboot", fair=False)
    elif state.left("kill"):
        yield Step(label=f"{turn.name} is killed", after=dead(turn.world, state.spend("kill"), index), fair=False)
    for field, budget, begin, end in (
        ("linked", "cut", "is cut off", "is reached again"),
        ("awake", "nap", "falls asleep", "wakes up"),
    ):
        if not getattr(machine, field):
            yield turn.step(end, machine._replace(**{field: True}))
        elif state.left(budget) and machine.up:
            yield turn.step(begin, machine._replace(**{field: False}), budget, fair=False)
    if state.left("revoke") and not machine.revoked:
        yield turn.step("is revoked", machine._replace(revoked=True), "revoke", fair=False)
    if state.left("gone") and not any(each.gone for each in state.machines):
        after = dead(turn.world, state.spend("gone"), index).machines[index]
        after = after._replace(gone=True, runs=())
        yield turn.step("is gone for good", after, "gone", fair=False)


def dead(world: World, state: State, index: int) -> State:
    """Return the state once a daemon has ended: gates close, memory is lost, requests may still come late."""
    machine = state.machines[index]
    after = {Run.TAKEN: None, Run.STARTING: Run.NEVER, Run.GATED: Run.NEVER}
    runs = tuple((job_id, end) for job_id, run in machine.runs if (end := after.get(run, run)) is not None)
    words = world.ask(world.decisions.words_after_start, machine.words)
    machine = machine._replace(up=False, runs=runs, words=words, repeats=frozenset(), grants=frozenset())
    calls = [each for each in state.calls if each.machine != index or not each.waits]
    late = [
        each._replace(stage=Stage.LATE)
        for each in state.calls
        if each.machine == index and each.stage is Stage.REQUEST
    ]
    return state.with_machine(index, machine)._replace(calls=(*calls, *late))
