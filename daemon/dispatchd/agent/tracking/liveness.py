"""Loop liveness. Each loop sets a deadline for its next report; a loop that misses it is stuck.

A deadline covers steps that take long only if something is wrong: a call with a deadline of its own, a
write. A loop that waits for something to do, for however long, has no deadline.
"""

from typing import Final

import anyio
from attrs import define, field

SLACK_S: Final = 15.0
"""Time after a deadline until its loop counts as stuck (seconds)."""

STEP_S: Final = 30.0
"""Longest time of a step without a deadline, such as a write to a slow disk (seconds)."""


@define
class Liveness:
    """Deadlines of the loops, on the event loop's clock."""

    _due: dict[str, float] = field(factory=dict, init=False)

    def expect(self, who: str, within_s: float) -> None:
        """Set the deadline for the next report of a loop, in seconds from now."""
        self._due[who] = anyio.current_time() + within_s

    def rest(self, who: str) -> None:
        """Remove the deadline of a loop: there is nothing to do."""
        self._due.pop(who, None)

    @property
    def stuck(self) -> list[str]:
        """Loops that missed their deadline, sorted; each a few words such as `report job-1`."""
        now = anyio.current_time()
        return sorted(who for who, due in self._due.items() if due < now)
