"""Search: breadth first over states, each looked at once; machines that are alike count once, whichever is which."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, evolve, field, frozen
from typing_extensions import override

from explore import hub, machine, network
from explore.bindings import Decisions
from explore.invariants import NO_END, STEPS_OF, is_good
from explore.model import (
    NAMES,
    Call,
    Hub,
    Machine,
    Moment,
    Scenario,
    State,
    Step,
)
from explore.world import World

Key = tuple[Any, ...]

WISHES = ("requeue", "event", "restore", "backup", "commit", "cancel job")
"""What may still begin something where all has ended."""

_OTHER = {"A": "B", "B": "A", "": ""}


@frozen(kw_only=True)
class Violation:
    """What doesn't hold, and the shortest way there."""

    words: str
    trace: tuple[str, ...]
    note: str = ""

    @override
    def __str__(self) -> str:
        lines = [
            f"{number:3}. {each}" for number, each in enumerate(self.trace, start=1)
        ]
        return "\n".join([self.words, *([self.note] if self.note else []), *lines])


@define(kw_only=True)
class Found:
    """What a search has come to."""

    scenario: str
    states: int = 0
    steps: int = 0
    ends: int = 0
    complete: bool = True
    """Whether there was nothing left to look at."""
    violations: dict[str, Violation] = field(factory=dict)

    @override
    def __str__(self) -> str:
        rest = "" if self.complete else ", not complete"
        return f"{self.scenario}: {self.states} states, {self.steps} steps, {self.ends} ends{rest}"


@define
class Search:
    """One search; `limit` is the most states (count), `until` when it ends at the latest (monotonic seconds)."""

    scenario: Scenario
    decisions: Decisions = field(factory=Decisions)
    limit: int = 10**9
    until: float = float("inf")
    first_only: bool = False
    """Whether to stop at the first violation."""
    _world: World = field(init=False)
    _parents: dict[Key, tuple[Key, str] | None] = field(factory=dict, init=False)
    _back: dict[Key, list[Key]] = field(factory=dict, init=False)
    """From where a state is reached by fair steps."""

    def __attrs_post_init__(self) -> None:
        self._world = World(self.decisions, self.scenario)

    def run(self) -> Found:
        found = Found(scenario=self.scenario.name)
        start = self._same(begin(self.scenario))
        key = self._key(start)
        self._parents[key] = None
        queue, goods = deque([(key, start)]), set[Key]()
        while queue and found.complete:
            key, state = queue.popleft()
            if is_good(state):
                goods.add(key)
                if not state.calls and not any(map(state.left, WISHES)):
                    continue
            queue.extend(self._look(found, key, state))
            found.complete = not self._is_enough(found)
        found.states, found.ends = len(self._parents), len(goods)
        if found.complete:
            self._find_stuck(found, goods)
        return found

    def _is_enough(self, found: Found) -> bool:
        is_late = time.monotonic() > self.until
        at_first = self.first_only and bool(found.violations)
        return is_late or at_first or len(self._parents) >= self.limit

    def _look(
        self, found: Found, key: Key, state: State
    ) -> Iterator[tuple[Key, State]]:
        """Yield the new states that come of one."""
        for step in steps(self._world, state):
            found.steps += 1
            after = self._same(step.after)
            self._check(found, key, state, step._replace(after=after))
            next_key = self._key(after)
            if step.fair and next_key != key:
                self._back.setdefault(next_key, []).append(key)
            if next_key not in self._parents:
                self._parents[next_key] = key, step.label
                yield next_key, after

    def _check(self, found: Found, key: Key, before: State, step: Step) -> None:
        for moment in (*step.moments, Moment("step")):
            for each in STEPS_OF[moment.what]:
                is_known = each.words in found.violations
                if not is_known and not each.holds(before, moment, step.after):
                    trace = (*self._trace(key), step.label)
                    found.violations[each.words] = Violation(
                        words=each.words, trace=trace, note=moment.words
                    )

    def _find_stuck(self, found: Found, goods: set[Key]) -> None:
        """Note the first state from which no fair steps lead to a good one."""
        can, todo = set(goods), list(goods)
        while todo:
            for each in self._back.get(todo.pop(), ()):
                if each not in can:
                    can.add(each)
                    todo.append(each)
        first = next((each for each in self._parents if each not in can), None)
        if first is not None:
            found.violations[NO_END] = Violation(words=NO_END, trace=self._trace(first))

    def _trace(self, key: Key) -> tuple[str, ...]:
        labels: list[str] = []
        while (parent := self._parents[key]) is not None:
            key, label = parent
            labels.append(label)
        return tuple(reversed(labels))

    def _same(self, state: State) -> State:
        """Return a state made of values that were seen before, where they are equal."""
        same: Callable[[Any], Any] = self._world.same
        return state._replace(
            hub=same(state.hub),
            machines=tuple(map(same, state.machines)),
            calls=tuple(map(same, state.calls)),
        )

    def _key(self, state: State) -> Key:
        key = self._plain_key(state)
        if len(state.machines) < 2:
            return key
        return min(key, self._plain_key(self._swapped(state)), key=_order)

    def _plain_key(self, state: State) -> Key:
        number = self._world.number
        return (
            (
                number(state.hub),
                *map(number, state.machines),
                *sorted(map(number, state.calls)),
            ),
            state.budget,
            state.backup and number(state.backup),
            state.sent,
            state.shown,
            state.handed,
            state.newest,
            state.cancelled,
            state.begun,
            state.restored,
        )

    def _swapped(self, state: State) -> State:
        ask = self._world.ask
        return state._replace(
            hub=ask(_swap_hub, state.hub),
            machines=state.machines[::-1],
            calls=tuple(ask(_swap_call, each) for each in state.calls),
            backup=state.backup and ask(_swap_hub, state.backup),
        )


def _order(key: Key) -> Key:
    numbers: Key = key[0]
    return numbers


def _swap_hub(of: Hub) -> Hub:
    jobs = (
        evolve(
            each, machine=_OTHER[each.machine], only_machine=_OTHER[each.only_machine]
        )
        for each in of.jobs
    )
    return of._replace(jobs=tuple(jobs))


def _swap_call(call: Call) -> Call:
    answer = call.answer
    if answer is not None and answer.job is not None:
        swapped = _swap_hub(Hub(jobs=(answer.job,))).jobs[0]
        answer = evolve(answer, job=swapped)
    return call._replace(machine=1 - call.machine, answer=answer)


def begin(scenario: Scenario) -> State:
    """Return the state in which a search begins."""
    machines = (Machine(),) * scenario.machines
    assert scenario.machines <= len(NAMES)
    state = State(
        hub=Hub(), machines=machines, budget=tuple(sorted(scenario.budget.items()))
    )
    for each in scenario.jobs:
        state = hub.added(state, each, "").after
    return state


def steps(world: World, state: State) -> Iterator[Step]:
    """Yield everything that can happen next."""
    yield from network.steps(world, state)
    for index in range(len(state.machines)):
        yield from machine.steps(world, state, index)
    yield from hub.steps(world, state)
