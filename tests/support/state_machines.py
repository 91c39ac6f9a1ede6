"""State machines of Hypothesis with many examples, until torture ends."""

from typing import Final

from hypothesis import seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from support.torture import Torture

_IN_EACH: Final = 5
"""Examples of each round (count)."""


def run_for_long(
    machine: type[RuleBasedStateMachine],
    usual: settings,
    torture: Torture,
    *,
    examples: int,
) -> None:
    """Try a state machine in rounds, each with a seed of its own; no second one begins after the end of torture."""
    few = settings(usual, max_examples=_IN_EACH)
    for number in range(examples * torture.size // _IN_EACH):
        if number and torture.is_over:
            return
        chance = torture.chance(f"{machine.__name__} {number}")
        # The seed stays with the class that it was given to.
        own = seed(chance.getrandbits(64))(type(machine.__name__, (machine,), {}))
        run_state_machine_as_test(own, settings=few)
