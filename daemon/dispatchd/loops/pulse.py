"""Which loops still go round: each promises when it will be heard of again, and is missed if it isn't.

A promise covers what should take long only where something is wrong: a call with a deadline of its own, a
write. A loop that waits for something to do, for however long, has promised nothing.
"""

from typing import Final

import anyio
from attrs import define, field

SLACK_S: Final = 15.0
"""What a deadline is given beyond itself before its keeper counts as stuck (seconds)."""

STEP_S: Final = 30.0
"""How long a step without a deadline may take, such as a write to a slow disk (seconds)."""


@define
class Pulse:
    """Who has promised to be heard of, and by when on the event loop's clock."""

    _due: dict[str, float] = field(factory=dict, init=False)

    def expect(self, who: str, within_s: float) -> None:
        """Promise, in a loop's name, to be here again within some seconds."""
        self._due[who] = anyio.current_time() + within_s

    def rest(self, who: str) -> None:
        """End a promise: there is nothing to do."""
        self._due.pop(who, None)

    @property
    def stuck(self) -> list[str]:
        """Who has not kept the promise, sorted; each a few words such as `report job-1`."""
        now = anyio.current_time()
        return sorted(who for who, due in self._due.items() if due < now)
