"""Turn: one machine at one moment, and the steps that change it."""

from collections.abc import Callable

from attrs import frozen

from explore.answers import changed
from explore.bindings import TrackedJob
from explore.model import (
    NAMES,
    Machine,
    Moment,
    Run,
    Stage,
    State,
    Step,
)
from explore.world import Bug, World


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

    def step(
        self, label: str, machine: Machine, spent: str = "", *, fair: bool = True
    ) -> Step:
        return Step(
            label=f"{self.name} {label}",
            after=self.with_machine(machine, spent),
            fair=fair,
        )

    def change(
        self,
        label: str,
        job_id: str,
        decide: Callable[[TrackedJob], TrackedJob],
        spent: str = "",
        *,
        fair: bool = True,
    ) -> Step:
        """Return the step in which a job's newest record is changed under its lock."""
        try:
            return self.step(
                label,
                changed(self.world, self.machine, job_id, decide),
                spent,
                fair=fair,
            )
        except Bug as error:
            moment = Moment(
                "bug", self.index, self.machine.find(job_id), words=str(error)
            )
            return Step(
                label=f"{self.name} {label}",
                after=self.state,
                fair=fair,
                moments=(moment,),
            )


def dead(world: World, state: State, index: int) -> State:
    """Return the state once a daemon has ended: gates close, memory is lost, requests may still come late."""
    machine = state.machines[index]
    after = {Run.TAKEN: None, Run.STARTING: Run.NEVER, Run.GATED: Run.NEVER}
    runs = tuple(
        (job_id, end)
        for job_id, run in machine.runs
        if (end := after.get(run, run)) is not None
    )
    words = world.ask(world.decisions.words_after_start, machine.words)
    machine = machine._replace(
        up=False, runs=runs, words=words, repeats=frozenset(), grants=frozenset()
    )
    calls = [each for each in state.calls if each.machine != index or not each.waits]
    late = [
        each._replace(stage=Stage.LATE)
        for each in state.calls
        if each.machine == index and each.stage is Stage.REQUEST
    ]
    return state.with_machine(index, machine)._replace(calls=(*calls, *late))
