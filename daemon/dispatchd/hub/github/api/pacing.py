"""Pacing of the calls for an installation: evenly spaced writes, and rate limits that GitHub has named.

Times are seconds of a monotonic clock, so that setting the wall clock changes no wait.
"""

from collections.abc import Callable
from typing import Final

from attrs import define, field

_BURST: Final = 5
"""Most writes at once after a pause (count)."""


@define
class Pace:
    """Spaces writes evenly: the generic cell rate algorithm (ITU-T I.371, Annex A), which needs one number.

    Writes beyond the rate are made up for by a longer pause.
    """

    interval_s: float
    _next_at: float = field(default=0.0, init=False)
    """Time of the next write if all were spaced evenly."""

    def free_at(self) -> float:
        """Return the time from which a write is permitted."""
        return self._next_at - (_BURST - 1) * self.interval_s

    def spend(self, now: float) -> None:
        """Count a write."""
        self._next_at = max(self._next_at, now) + self.interval_s


@define
class Gates:
    """Gates of installations: open if a call is permitted now. `clock` is monotonic (seconds)."""

    clock: Callable[[], float]
    writes_per_minute: int
    _paces: dict[int, Pace] = field(factory=dict, init=False)
    _limited: dict[int, float] = field(factory=dict, init=False)

    def spend(self, installation: int) -> None:
        """Count a write for an installation."""
        if installation not in self._paces:
            self._paces[installation] = Pace(60.0 / self.writes_per_minute)
        self._paces[installation].spend(self.clock())

    def limit(self, installation: int, wait_s: float) -> None:
        """Permit no call for an installation for a time (seconds)."""
        until = self.clock() + wait_s
        self._limited[installation] = max(until, self._limited.get(installation, 0.0))

    def opens_at(self, installation: int) -> float:
        """Return the time from which calls for an installation are permitted; in the past if they are now."""
        pace = self._paces.get(installation)
        free_at = 0.0 if pace is None else pace.free_at()
        return max(free_at, self._limited.get(installation, 0.0))

    def is_open(self, installation: int) -> bool:
        """Return whether calls for an installation are permitted now."""
        return self.opens_at(installation) <= self.clock()

    def closed(self) -> dict[int, float]:
        """Return the installations for which no call is permitted now, each with the remaining wait (seconds)."""
        now = self.clock()
        waits = {
            installation: self.opens_at(installation) - now
            for installation in {*self._paces, *self._limited}
        }
        return {
            installation: wait_s for installation, wait_s in waits.items() if wait_s > 0
        }
