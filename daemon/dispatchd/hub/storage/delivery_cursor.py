"""Progress with GitHub's deliveries, stored for restarts and for other hub processes.

One mark for each App holds it, written by the process that has the lock. Times are seconds since the epoch,
by GitHub's clock unless noted, 0 for what has not happened.
"""

import json
from typing import Final, Self

import structlog
from attrs import asdict, evolve, frozen

from dispatchd.protocol.conversion import strict_converter

_LOSSES_KEPT: Final = 20
"""Most periods that are stored (count)."""


@frozen(kw_only=True)
class Loss:
    """A period of lost deliveries: GitHub no longer has them, and the hub didn't fetch them in time."""

    since: float
    until: float


@frozen(kw_only=True)
class Progress:
    """Progress of the hub with the deliveries of an App."""

    started_at: float = 0
    """Start of polling, by the hub's clock: earlier deliveries are ignored."""
    watermark: float = 0
    """Time before which all deliveries are finished."""
    swept_at: float = 0
    """Start of the newest sweep that has left nothing over."""
    trouble: str = ""
    """Reason why the newest sweep ended early, in words; empty if it didn't."""
    trouble_at: float = 0
    """Start of that problem, by the hub's clock."""
    losses: tuple[Loss, ...] = ()
    """Periods of lost deliveries, oldest first."""

    @classmethod
    def read(cls, mark: str) -> Self:
        """Return the progress in a mark; an empty or unreadable one means that nothing has happened yet."""
        try:
            return _converter.structure(json.loads(mark or "{}"), cls)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            structlog.get_logger().error("github_mark_unreadable", error=str(error))
            return cls()

    def as_mark(self) -> str:
        """Return the mark of this progress."""
        return json.dumps(asdict(self))

    @property
    def complete_until(self) -> float:
        """Time until which every delivery is finished; it advances in a quiet time too."""
        return max(self.watermark, self.swept_at)

    def by_github(self, ahead_s: float) -> Self:
        """Return it with a watermark by GitHub's clock, which is `ahead_s` ahead of the hub's (seconds)."""
        return (
            self
            if self.watermark
            else evolve(self, watermark=self.started_at + ahead_s)
        )

    def with_loss(self, *, kept_since: float) -> Self:
        """Return it with the period of lost deliveries, if there is one; GitHub has deliveries since `kept_since`."""
        since = self.complete_until
        if kept_since <= since:
            return self
        *before, last = (*self.losses, Loss(since=since, until=kept_since))
        if before and before[-1].until >= since:
            # It grows until a sweep has caught up.
            last = Loss(since=before.pop().since, until=kept_since)
        return evolve(self, losses=(*before, last)[-_LOSSES_KEPT:])


def mark_of(target: str) -> str:
    """Return the name of the mark of a hook (`Delivery.target`)."""
    return f"deliveries of {target}"


_converter: Final = strict_converter(forbid_extra_keys=False, detailed_validation=False)
