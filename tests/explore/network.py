"""Network: calls on their way, what the hub makes of them, and what the machine makes of the answers."""

from collections.abc import Iterator

from explore.answers import Done, at_machine
from explore.bindings import (
    ENDED,
    STATUSES,
    Claim,
    HubError,
    HubJob,
)
from explore.model import (
    LOST,
    NAMES,
    PULLS,
    Answer,
    Call,
    Kind,
    Moment,
    Stage,
    State,
    Step,
    get,
    put,
    token_of,
)
from explore.world import Bug, World

Asked = tuple[State, Answer, tuple[Moment, ...]]

# The hub.


def at_hub(world: World, state: State, call: Call) -> Asked:
    """Return what a request comes to: the state, the answer, what there was to see."""
    if state.machines[call.machine].revoked:
        return state, Answer(status=401), ()
    if call.kind in PULLS:
        return _pull(world, state, call)
    assert call.record is not None
    job = state.hub.find(call.job_id)
    if job is None:
        return state, Answer(status=404), ()
    seen = Moment("asked", call.machine, call.record, job, call=call)
    try:
        after = _decided(world, call, job)
    except HubError as error:
        answer = Answer(status=int(STATUSES[type(error)]))
        return state, answer, (seen._replace(what="refused", after=job, answer=answer),)
    except Bug as error:
        return state, Answer(status=500), (seen._replace(what="bug", words=str(error)),)
    wants_end = world.ask(world.decisions.wants_end, after)
    answer = Answer(status=200)
    if call.kind in (Kind.ACCEPT, Kind.CONFIRM):
        # As `hub/api/dispatch.py` has it.
        answer = (
            Answer(status=410)
            if after.state in ENDED
            else Answer(status=200, cancel=wants_end)
        )
    elif call.kind is Kind.BEAT:
        answer = Answer(status=200, cancel=wants_end)
    return (
        state.with_job(after),
        answer,
        (seen._replace(what="granted", after=after, answer=answer),),
    )


def _decided(world: World, call: Call, job: HubJob) -> HubJob:
    decisions, record = world.decisions, call.record
    assert record is not None
    by = Claim(machine=NAMES[call.machine], token_hash=record.job.claim_token)
    match call.kind:
        case Kind.ACCEPT | Kind.CONFIRM:
            return world.ask(decisions.accept, job, by)
        case Kind.BEAT:
            return world.ask(decisions.beat, job, by, record.phase.value)
        case Kind.RELEASE:
            return world.ask(decisions.release, job, by)
        case _:
            assert record.verdict is not None
            outcome, cause = record.verdict.outcome, record.verdict.cause
            return world.ask(decisions.finish, job, by, outcome.value, str(cause or ""))


def next_job(world: World, state: State, call: Call) -> HubJob | None:
    """Return the job that a pull gets: urgent ones first, then the oldest."""
    may_have, name = world.decisions.may_have, NAMES[call.machine]
    jobs = [
        each
        for each in state.hub.jobs
        if world.ask(may_have, each, name, call.kind is Kind.CANCELS)
    ]
    return max(jobs, key=lambda each: each.urgent, default=None)


def _pull(world: World, state: State, call: Call) -> Asked:
    job = next_job(world, state, call)
    if job is None:
        return state, Answer(status=204), ()
    count = (get(state.handed, job.id) or 0) + 1
    claim_token = token_of(job.id, count)
    seen = Moment("handed out", call.machine, job=job)
    try:
        after = world.ask(world.decisions.claim, job, NAMES[call.machine], claim_token)
    except Bug as error:
        return state, LOST, (seen._replace(what="bug", words=str(error)),)
    state = state.with_job(after)._replace(
        handed=put(state.handed, job.id, count),
        newest=put(state.newest, job.id, claim_token),
    )
    return (
        state,
        Answer(status=200, job=job, token=claim_token),
        (seen._replace(after=after),),
    )


def _taken_back(world: World, state: State, call: Call) -> Done:
    assert call.answer is not None
    assert call.answer.job is not None
    before, claim_token = call.answer.job, call.answer.token
    job = state.hub.find(before.id)
    assert job is not None
    by = Claim(machine=NAMES[call.machine], token_hash=claim_token)
    seen = Moment("taken back", call.machine, job=job)
    try:
        after = world.ask(world.decisions.take_back, job, by, before)
    except HubError:
        return state, ()
    except Bug as error:
        return state, (seen._replace(what="bug", words=str(error)),)
    newest = put(state.newest, job.id, before.token_hash or None)
    return state.with_job(after)._replace(newest=newest), (seen._replace(after=after),)


# What can happen on the way.


def sent(world: World, state: State, call: Call) -> Iterator[Step]:
    """Yield what can come of a call that a machine makes now."""
    who = NAMES[call.machine]
    told = (Moment("sent", call.machine, call.record, call=call),)
    if call.kind is Kind.RELEASE and call.record is not None:
        machine = state.machines[call.machine]
        released = machine.released | {call.record.job.claim_token}
        state = state.with_machine(call.machine, machine._replace(released=released))
    if world.scenario.split:
        yield Step(
            label=f"{who} sends: {call}", after=state.with_call(call), moments=told
        )
        return
    asked, answer, seen = at_hub(world, state, call)
    after, heard = at_machine(world, asked, call, answer)
    moments = (*told, *seen, *heard)
    yield Step(label=f"{call}: {_words(answer)}", after=after, moments=moments)
    late = call._replace(stage=Stage.LATE)
    if state.left("loss"):
        after, heard = at_machine(world, asked.spend("loss"), call, LOST)
        label = f"{call}: {_words(answer)}, and the answer is lost"
        yield Step(label=label, after=after, fair=False, moments=(*told, *seen, *heard))
        after, heard = at_machine(
            world, state.spend("loss").with_call(late), call, LOST
        )
        label = f"{call}: no answer, the request may come late"
        yield Step(label=label, after=after, fair=False, moments=(*told, *heard))
    if state.left("double"):
        after, heard = at_machine(
            world, asked.spend("double").with_call(late), call, answer
        )
        label = f"{call}: {_words(answer)}, and a copy of the request may come late"
        yield Step(label=label, after=after, fair=False, moments=(*told, *seen, *heard))


def steps(world: World, state: State) -> Iterator[Step]:
    """Yield what can happen to the calls that are on their way."""
    for call in set(state.calls):
        machine = state.machines[call.machine]
        rest = state.without_call(call)
        match call.stage:
            case Stage.REQUEST if machine.linked:
                asked, answer, seen = at_hub(world, rest, call)
                waits = call._replace(stage=Stage.ANSWERED, answer=answer)
                label = f"hub gets {call}: {_words(answer)}"
                yield Step(label=label, after=asked.with_call(waits), moments=seen)
            case Stage.ANSWERED if machine.linked and machine.up and machine.awake:
                assert call.answer is not None
                after, heard = at_machine(world, rest, call, call.answer)
                label = f"{call} is answered: {_words(call.answer)}"
                yield Step(label=label, after=after, moments=heard)
            case Stage.LATE:
                asked, answer, seen = at_hub(world, rest, call)
                label = f"hub gets {call}: {_words(answer)}"
                yield Step(label=label, after=asked, moments=seen)
                if call.kind in PULLS and answer.job is not None:
                    nobody = call._replace(stage=Stage.CLAIMED, answer=answer)
                    label = (
                        f"hub gives {answer.job.id} to {call}, of which nobody hears"
                    )
                    yield Step(label=label, after=asked.with_call(nobody), moments=seen)
            case Stage.CLAIMED:
                after, seen = _taken_back(world, rest, call)
                yield Step(
                    label=f"hub takes back what {call} got", after=after, moments=seen
                )
            case _:
                pass
        if (
            call.waits
            and machine.up
            and machine.awake
            and (state.left("loss") or not machine.linked)
        ):
            yield _loses(world, state, rest, call)


def _loses(world: World, state: State, rest: State, call: Call) -> Step:
    is_cut = not state.machines[call.machine].linked
    after = rest if is_cut else rest.spend("loss")
    if call.stage is Stage.REQUEST:
        after = after.with_call(call._replace(stage=Stage.LATE))
    after, heard = at_machine(world, after, call, LOST)
    return Step(
        label=f"{call} ends without an answer", after=after, fair=is_cut, moments=heard
    )


def _words(answer: Answer) -> str:
    if answer.status == 0:
        return "no answer"
    what = (
        f" job {answer.job.id[:6]}, claim {answer.token.rpartition('#')[2]}"
        if answer.job
        else ""
    )
    return f"{answer.status}{what}{' cancel' if answer.cancel else ''}"
