"""Hub: leases that end, people and events that want something, the outbox of checks, a restore."""

from collections.abc import Iterator
from functools import partial

from attrs import evolve

from explore.answers import at_machine
from explore.bindings import (
    ENDED,
    HELD,
    LONG_AGO,
    OVER,
    HubJob,
    Phase,
)
from explore.bindings import State as JobState
from explore.machine import may_beat
from explore.model import (
    NAMES,
    NEWER,
    Call,
    CheckRow,
    Document,
    Hub,
    Kind,
    Machine,
    Moment,
    State,
    Step,
    job,
)
from explore.network import at_hub
from explore.world import Bug, World

_SUBMITTED = {
    "cancel job": Document.of(id="C", command="cancel", target="J"),
    "commit": {**job(NEWER).document, "sha": "b"},
}
"""What somebody submits, by its budget: a cancel of J, a newer commit of the same pull request."""

DELIVERY = "D1"


def steps(world: World, state: State) -> Iterator[Step]:
    """Yield what can happen at the hub, and at GitHub."""
    yield from _time(world, state)
    yield from _leases(world, state)
    yield from _people(world, state)
    yield from _submits(world, state)
    yield from _events(world, state)
    if world.scenario.check:
        yield from _outbox(world, state)


def _time(world: World, state: State) -> Iterator[Step]:
    """Yield that a lease and the patience after it pass: whoever is there has beaten in it, and its calls have ended."""
    machines = state.machines
    if any(each.waits and machines[each.machine].is_present for each in state.calls):
        return
    is_kept = partial(_is_kept, world, state)
    if world.scenario.bare or (
        all(each.is_present for each in machines) and all(map(is_kept, state.hub.jobs))
    ):
        # Nothing changes where everybody beats; and without leases none passes.
        return
    hub, calls = state.hub, tuple(each._replace(fresh=False) for each in state.calls)
    for each in hub.jobs:
        if each.state in HELD and each.lease_until != OVER:
            hub = hub.stored(evolve(each, lease_until=OVER))
    after = state._replace(
        hub=hub, calls=calls, machines=tuple(_aged(each) for each in machines)
    )
    seen: list[Moment] = []
    for index, machine in enumerate(after.machines):
        for record in machine.records if machine.is_present else ():
            if may_beat(world, machine, record):
                call = Call(kind=Kind.BEAT, machine=index, record=record)
                after, answer, at = at_hub(world, after, call)
                after, heard = at_machine(world, after, call, answer)
                seen += [*at, *heard]
    yield Step(label="a lease and the patience pass", after=after, moments=tuple(seen))


def _is_kept(world: World, state: State, of: HubJob) -> bool:
    """Return whether a job is in nobody's hands, or in those of a machine that beats for it."""
    if of.state not in HELD:
        return True
    machine = state.machines[NAMES.index(of.machine)]
    record = machine.tracked(of.id)
    is_known = record is not None and record.job.claim_token == of.token_hash
    return is_known and record is not None and may_beat(world, machine, record)


def _aged(machine: Machine) -> Machine:
    words = tuple(
        (each, evolve(word, asked_at=LONG_AGO)) for each, word in machine.words
    )
    held = {
        each.job.claim_token
        for each in machine.records
        if each.phase is not Phase.RELEASING and "heartbeat" in each.job.extensions
    }
    return machine._replace(
        words=words,
        grants=frozenset(),
        held=frozenset(held if machine.is_present else ()),
    )


def _leases(world: World, state: State) -> Iterator[Step]:
    for each in state.hub.jobs:
        if each.state in HELD and each.lease_until == OVER:
            yield _changed(
                world, state, each, "expire", "the lease of {} is over", "expired"
            )
        if each.state is JobState.QUEUED and each.urgent and each.only_machine:
            others = tuple(other for other in state.hub.jobs if other.id != each.id)
            after = world.ask(world.decisions.cancel_job_over, each, others)
            if after is not each:
                yield Step(
                    label=f"hub ends cancel job {each.id}: {after.state}",
                    after=state.with_job(after),
                )


def _changed(
    world: World, state: State, of: HubJob, decision: str, label: str, what: str
) -> Step:
    seen = Moment(what, job=of)
    try:
        after = world.ask(getattr(world.decisions, decision), of)
    except Bug as error:
        return Step(
            label=f"hub: {label.format(of.id[:6])}",
            after=state,
            moments=(seen._replace(what="bug", words=str(error)),),
        )
    moments = (seen._replace(after=after),)
    return Step(
        label=f"hub: {label.format(of.id[:6])}: {after.state}",
        after=state.with_job(after),
        moments=moments,
    )


def _people(world: World, state: State) -> Iterator[Step]:
    for each in state.hub.jobs:
        if state.left("cancel") and each.state not in ENDED and not each.urgent:
            step = _changed(
                world,
                state.spend("cancel"),
                each,
                "cancel",
                "somebody cancels {}",
                "cancelled",
            )
            cancelled = state.cancelled | {each.id}
            yield step._replace(
                after=step.after._replace(cancelled=cancelled), fair=False
            )
        if state.left("requeue") and each.state in ENDED and not each.urgent:
            name = f"{each.id}'"
            while state.hub.find(name) is not None:
                name += "'"
            document = Document({**each.document, "id": name})
            again = evolve(job(name), document=document)
            yield added(state.spend("requeue"), again, f"somebody requeues {each.id}")
    if state.left("backup") and state.backup is None:
        yield Step(
            label="the hub is backed up",
            after=state.spend("backup")._replace(backup=state.hub),
            fair=False,
        )
    if state.left("restore") and state.backup is not None:
        after = state.spend("restore")._replace(
            hub=state.backup, cancelled=frozenset(), restored=True
        )
        yield Step(label="the hub is restored from the backup", after=after, fair=False)


def added(state: State, new: HubJob, label: str) -> Step:
    checks = (*state.hub.checks, CheckRow(job_id=new.id))
    hub = state.hub.stored(new)._replace(checks=checks)
    return Step(
        label=label,
        after=state._replace(hub=hub),
        fair=False,
        moments=(Moment("made", job=new),),
    )


def _submits(world: World, state: State) -> Iterator[Step]:
    for budget, document in _SUBMITTED.items():
        if not state.left(budget):
            continue
        new = HubJob(
            id=str(document["id"]),
            document=Document(document),
            workflow=str(document.get("dag_name") or ""),
            repository=str(document.get("repository_name") or ""),
            number=Document(document).number,
            urgent=Document(document).is_cancel,
        )
        done = world.ask(world.decisions.submitted, new, state.hub.jobs)
        after = state.spend(budget)._replace(
            hub=state.hub.stored(world.plain(done.job))
        )
        moments = [Moment("made", job=done.job)]
        for other in done.others:
            before, other_after = state.hub.find(other.id), world.plain(other)
            after = after.with_job(other_after)
            moments.append(Moment("cancelled", job=before, after=other_after))
            if new.urgent:
                after = after._replace(cancelled=after.cancelled | {other.id})
        yield Step(
            label=f"somebody submits {new.id} ({budget}): {done.job.state}",
            after=after,
            fair=False,
            moments=tuple(moments),
        )


def _events(world: World, state: State) -> Iterator[Step]:
    """Yield that GitHub sends an event, and that the hub, which lists GitHub's deliveries, fetches what it has missed."""
    if state.left("event"):
        after = state.spend("event")._replace(sent=state.sent | {DELIVERY})
        yield _event(world, after, "GitHub sends")._replace(fair=False)
    if DELIVERY in state.sent and DELIVERY not in state.hub.deliveries:
        yield _event(world, state, "the hub fetches")


def _event(world: World, state: State, label: str) -> Step:
    hub = state.hub._replace(deliveries=state.hub.deliveries | {DELIVERY})
    known = DELIVERY in state.hub.deliveries
    made = sum(count for _, count in state.handed)
    job_id = world.ask(world.decisions.event_job_id, DELIVERY, made)
    if known or hub.find(job_id):
        return Step(
            label=f"{label} an event that is known", after=state._replace(hub=hub)
        )
    new = evolve(job(job_id), by_event=True)
    return added(state._replace(hub=hub), new, f"{label} an event: job {job_id[:6]}")


# GitHub's checks.


def _outbox(world: World, state: State) -> Iterator[Step]:
    """Yield what the publisher tells next of each check that owes something, and its end by a kill before it is noted."""
    rows = tuple(each.job_id for each in state.hub.checks)
    for row in state.hub.checks:
        of = state.hub.find(row.job_id)
        told = _standing(of)
        if row.told == told:
            continue
        name = row.job_id[:6]
        shown = dict(state.shown)
        noted = _with_row(
            state.hub, row._replace(told=told, made=row.made or row.job_id in shown)
        )
        if row.made or row.job_id in shown:
            runs = tuple(
                (each, told if each == row.job_id else old) for each, old in state.shown
            )
            yield Step(
                label=f"GitHub is told {told} of {name}",
                after=state._replace(hub=noted, shown=runs),
            )
        elif world.ask(world.decisions.is_newest, row.job_id, rows):
            runs = (*state.shown, (row.job_id, told))
            noted = _with_row(state.hub, row._replace(told=told, made=True))
            seen = (Moment("check made", job=of),)
            label = f"GitHub gets a check of {name}: {told}"
            yield Step(
                label=label, after=state._replace(hub=noted, shown=runs), moments=seen
            )
            if state.left("hub kill"):
                after = state.spend("hub kill")._replace(shown=runs)
                yield Step(
                    label=f"{label}, and the hub is killed before it has noted that",
                    after=after,
                    fair=False,
                    moments=seen,
                )
        else:
            yield Step(
                label=f"of {name} GitHub is told nothing: there is a newer one",
                after=state._replace(hub=noted),
            )


def _with_row(hub: Hub, row: CheckRow) -> Hub:
    return hub._replace(
        checks=tuple(row if each.job_id == row.job_id else each for each in hub.checks)
    )


def _standing(of: HubJob | None) -> str:
    if of is None or of.state not in ENDED:
        return "pending"
    return of.state.value
