"""How far the hub has come with GitHub's deliveries: what a restart, and any other hub process, has to know.

One mark for each App holds it, written by the process that has the lock. Times are seconds since the epoch, by
GitHub's clock unless it says otherwise, 0 for what has not happened.
"""

import json
from typing import Final, Self

import structlog
from attrs import asdict, evolve, frozen

from dispatchd.conversion import strict_converter

_LOSSES_KEPT: Final = 20
"""How many periods are remembered (count)."""


@frozen(kw_only=True)
class Loss:
    """A period whose deliveries GitHub doesn't keep any more, and that the hub hasn't asked for in time."""

    since: float
    until: float


@frozen(kw_only=True)
class Progress:
    """How far the hub has come."""

    started_at: float = 0
    """When the hub began to ask, by its own clock: what was delivered before is nothing to it."""
    watermark: float = 0
    """What was delivered before is dealt with."""
    swept_at: float = 0
    """When the newest sweep began that has left nothing over."""
    trouble: str = ""
    """Why the newest sweep has ended early, in words; empty where it hasn't."""
    trouble_at: float = 0
    """Since when, by the hub's clock."""
    losses: tuple[Loss, ...] = ()
    """Oldest first."""

    @classmethod
    def read(cls, mark: str) -> Self:
        """Return what a mark says; an empty one, or one that can't be read, says that nothing has happened yet."""
        try:
            return _converter.structure(json.loads(mark or "{}"), cls)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            structlog.get_logger().error("github_mark_unreadable", error=str(error))
            return cls()

    def as_mark(self) -> str:
        """Return the mark that says this."""
        return json.dumps(asdict(self))

    @property
    def complete_until(self) -> float:
        """Up to when every delivery is dealt with; it moves on in a quiet time too."""
        return max(self.watermark, self.swept_at)

    def by_github(self, ahead_s: float) -> Self:
        """Return it with a watermark of GitHub's clock, which is ahead of the hub's by some seconds."""
        return (
            self
            if self.watermark
            else evolve(self, watermark=self.started_at + ahead_s)
        )

    def with_loss(self, *, kept_since: float) -> Self:
        """Return it with the period that is lost, if there is one; GitHub has deliveries since `kept_since`."""
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
