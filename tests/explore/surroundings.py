"""Surroundings: what a machine's kernel, its operator and bad luck do to it."""

from collections.abc import Iterator

from explore.bindings import UNFINISHED, Event, Outcome, Phase, TrackedJob, Verdict
from explore.model import Kind, Mode, Run, Step, get
from explore.turn import Turn, dead

_SUCCEEDED = Verdict(outcome=Outcome.SUCCEEDED, summary="")
_ENDS = {Run.SIGNAL: "signal", Run.BLOCKED: "block"}
"""How a command may end beside exit 0, and the budget of that."""


def steps(turn: Turn) -> Iterator[Step]:
    """Yield what happens to a machine, whatever its daemon does."""
    yield from _kernel(turn)
    yield from _misfortune(turn)
    if turn.machine.up and turn.machine.awake:
        yield from _modes(turn)
        yield from _hand_back(turn)
        for record in turn.machine.records:
            if not record.job.is_cancel:
                yield from _operator(turn, record)


def _kernel(turn: Turn) -> Iterator[Step]:
    """Yield how commands end by themselves: fair only where nobody who could end them was asked to."""
    machine = turn.machine
    for job_id, run in machine.runs:
        if run is Run.ALIVE:
            is_fair = not _is_to_end(turn, job_id)
            yield turn.step(
                f"sees {job_id[:6]} exit with 0",
                machine.with_run(job_id, Run.EXIT_0),
                fair=is_fair,
            )
            for end, budget in _ENDS.items():
                if turn.state.left(budget):
                    yield turn.step(
                        f"sees {job_id[:6]} end: {end}",
                        machine.with_run(job_id, end),
                        budget,
                        fair=False,
                    )


def _is_to_end(turn: Turn, job_id: str) -> bool:
    """Return whether somebody wants the end of a run that its machine can hear of, under the claim that counts."""
    record = turn.machine.tracked(job_id)
    counts = record is not None and record.job.claim_token == get(
        turn.state.newest, job_id
    )
    return counts and job_id in turn.state.cancelled | turn.machine.warned


def _hand_back(turn: Turn) -> Iterator[Step]:
    """Yield what a drain and a stop do: hand back what has not started."""
    machine, give_back = turn.machine, turn.world.decisions.given_back
    if machine.mode is Mode.PULLING:
        return
    for record in machine.records:
        job = record.job
        may_go = (
            record.is_unstarted and not job.is_cancel and "release" in job.extensions
        )
        if may_go and not turn.state.waits(turn.index, job.id, Kind.RELEASE):
            yield turn.change(f"gives {job.id[:6]} back", job.id, give_back)
    if machine.mode is Mode.DRAINING:
        yield turn.step("resumes", machine._replace(mode=Mode.PULLING))
    else:
        yield Step(
            label=f"{turn.name} has stopped",
            after=dead(turn.world, turn.state, turn.index),
        )


def _modes(turn: Turn) -> Iterator[Step]:
    for mode, budget in ((Mode.DRAINING, "drain"), (Mode.STOPPING, "stop")):
        if turn.machine.mode is Mode.PULLING and turn.state.left(budget):
            told = turn.machine._replace(mode=mode)
            yield turn.step(f"is told to be {mode}", told, budget, fair=False)


def _operator(turn: Turn, record: TrackedJob) -> Iterator[Step]:
    """Yield what an operator may do to a job: cancel, park, resolve."""
    state, decisions = turn.state, turn.world.decisions
    job_id, short = record.job.id, record.job.id[:6]
    if state.left("local cancel") and record.phase is not Phase.FINISHING:
        label = f"is told to cancel {short}"
        step = turn.change(label, job_id, decisions.ended, "local cancel", fair=False)
        machine = step.after.machines[turn.index]
        machine = machine._replace(warned=machine.warned | {job_id})
        yield step._replace(after=step.after.with_machine(turn.index, machine))
    may_park = record.phase in UNFINISHED and not record.stop_requested
    if state.left("park") and may_park:
        label = f"is told to park {short}"
        yield turn.change(label, job_id, decisions.parked, "park", fair=False)
    if record.phase is Phase.NEEDS_ATTENTION:
        yield _resolved(turn, record, Event.RESOLVED, _SUCCEEDED)
        if state.left("retry"):
            step = _resolved(turn, record, Event.RESOLVED_RETRY, None)
            yield step._replace(after=step.after.spend("retry"), fair=False)


def _resolved(
    turn: Turn, record: TrackedJob, event: Event, verdict: Verdict | None
) -> Step:
    after = turn.world.ask(turn.world.decisions.advanced, record, event, verdict)
    label = f"is told {event} for {record.job.id[:6]}"
    return turn.step(label, turn.machine.stored(after))


def _misfortune(turn: Turn) -> Iterator[Step]:
    """Yield kills, cuts, naps, the end of a machine, and the ends of those."""
    machine, state, index = turn.machine, turn.state, turn.index
    if machine.gone:
        return
    yield from _power(turn)
    for is_so, budget, begin, end in (
        (not machine.linked, "cut", "is cut off", "is reached again"),
        (not machine.awake, "nap", "falls asleep", "wakes up"),
    ):
        toggled = (
            machine._replace(linked=is_so)
            if budget == "cut"
            else machine._replace(awake=is_so)
        )
        if is_so:
            yield turn.step(end, toggled)
        elif state.left(budget) and machine.up:
            yield turn.step(begin, toggled, budget, fair=False)
    if state.left("revoke") and not machine.revoked:
        revoked = machine._replace(revoked=True)
        yield turn.step("is revoked", revoked, "revoke", fair=False)
    if state.left("gone") and not any(each.gone for each in state.machines):
        after = dead(turn.world, state.spend("gone"), index)
        gone = after.machines[index]._replace(gone=True, runs=())
        after = after.with_machine(index, gone)
        yield Step(label=f"{turn.name} is gone for good", after=after, fair=False)


def _power(turn: Turn) -> Iterator[Step]:
    """Yield a kill of the daemon, its next start, and a reboot before that."""
    machine, state = turn.machine, turn.state
    if machine.up:
        if state.left("kill"):
            after = dead(turn.world, state.spend("kill"), turn.index)
            yield Step(label=f"{turn.name} is killed", after=after, fair=False)
        return
    started = machine._replace(up=True, mode=Mode.PULLING)
    yield turn.step("starts again", started)
    if state.left("reboot") and any(run is Run.ALIVE for _, run in machine.runs):
        runs = tuple(
            (each, Run.LOST if run is Run.ALIVE else run) for each, run in machine.runs
        )
        yield turn.step("reboots", machine._replace(runs=runs), "reboot", fair=False)
