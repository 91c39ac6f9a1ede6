"""Listening: since when this hub has been able to hear machines, without a break.

Silence says something only about a machine that could have been heard. While the hub is down, stopped or asleep, or
has no database, nobody is: whoever counts that time against machines runs their jobs a second time.
"""

from typing import Final

from attrs import define, frozen

_TOLERATED_S: Final = (1.0, 5.0)
"""The longest break that is none, half a lease between these bounds (seconds): a busy machine has such."""


@frozen(kw_only=True)
class Moment:
    """A reading of the clocks at the beginning of a round (seconds)."""

    now: float
    """The hub's time, by which leases are written down; somebody may set it."""
    since_boot: float
    """Counts also while the machine sleeps or the process is stopped."""
    running: float
    """What the loops wait by; doesn't count while the machine sleeps."""


@define
class Listening:
    """Judges the rounds of a loop that goes round for as long as the hub listens."""

    last: Moment
    since: float
    """From when on silence counts, by the hub's time."""
    is_interrupted: bool = False

    @classmethod
    def begun(cls, moment: Moment) -> "Listening":
        """Return that of a hub that has just started."""
        return cls(moment, moment.now)

    def interrupt(self) -> None:
        """Note that nothing could be heard now, such as without the database."""
        self.is_interrupted = True

    def hear(self, moment: Moment, *, waited_s: float, lease_s: float) -> bool:
        """Note a round in which machines could be heard, and return whether there was a break before it.

        Args:
            moment: Its beginning.
            waited_s: How long the loop meant to wait since the round before (seconds).
            lease_s: The length of a lease (seconds).
        """
        least_s, most_s = _TOLERATED_S
        tolerated_s = min(max(lease_s / 2, least_s), most_s)
        late_s = moment.since_boot - self.last.since_boot - waited_s
        set_by_s = moment.now - self.last.now - (moment.running - self.last.running)
        had_a_break = (
            self.is_interrupted or late_s > tolerated_s or abs(set_by_s) > tolerated_s
        )
        self.last, self.is_interrupted = moment, False
        if had_a_break:
            self.since = moment.now
        return had_a_break
