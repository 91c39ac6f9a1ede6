"""Listening: the time since which this hub has been able to hear machines, without a break.

Silence counts only for a machine that could have been heard. While the hub is down, stopped or asleep, or has no
database, none can be: a hub that counted that time against machines would run their jobs a second time.
"""

from typing import Final

from attrs import define, frozen

_TOLERATED_S: Final = (1.0, 5.0)
"""Bounds of the longest tolerated pause, which is half a lease (seconds): a busy machine has such pauses."""


@frozen(kw_only=True)
class Moment:
    """A reading of the clocks at the beginning of a round (seconds)."""

    now: float
    """Time of the hub's clock, by which leases are stored; somebody may set it."""
    since_boot: float
    """Time since boot; it runs also while the machine sleeps or the process is stopped."""
    running: float
    """Time by which the loops wait; it doesn't run while the machine sleeps."""


@define
class Listening:
    """Detects breaks by the rounds of a loop that runs for as long as the hub listens."""

    last: Moment
    since: float
    """Time from which silence counts, by the hub's clock."""
    is_interrupted: bool = False
    was_set_back: bool = False
    """True if stored times may be ahead of the hub's, by the time for which its clock was wrong."""

    @classmethod
    def begun(cls, moment: Moment) -> "Listening":
        """Return the state of a hub that has just started."""
        return cls(moment, moment.now)

    def interrupt(self) -> None:
        """Record that nothing can be heard now, for example without the database."""
        self.is_interrupted = True

    def leases_are_right(self) -> None:
        """Record that no stored time is ahead of the hub's any more."""
        self.was_set_back = False

    def hear(self, moment: Moment, *, waited_s: float, lease_s: float) -> bool:
        """Record a round in which machines could be heard; return whether there was a break before it.

        Args:
            moment: The beginning of the round.
            waited_s: The planned wait of the loop since the round before (seconds).
            lease_s: The length of a lease (seconds).
        """
        least_s, most_s = _TOLERATED_S
        tolerated_s = min(max(lease_s / 2, least_s), most_s)
        late_s = moment.since_boot - self.last.since_boot - waited_s
        set_by_s = moment.now - self.last.now - (moment.running - self.last.running)
        had_a_break = (
            self.is_interrupted or late_s > tolerated_s or abs(set_by_s) > tolerated_s
        )
        self.was_set_back = self.was_set_back or set_by_s < -tolerated_s
        self.last, self.is_interrupted = moment, False
        if had_a_break:
            self.since = moment.now
        return had_a_break
