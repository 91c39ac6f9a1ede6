"""Current activity of each loop, in a few words, and abilities that the endpoint has shown."""

from collections import Counter
from datetime import datetime
from typing import Final

from attrs import define, field

from dispatchd.concurrency.notifier import Notifier

NOT_ASKED: Final = "not asked yet"
"""Result of the last pull, before the first one has ended."""


@define
class Activity:
    """Written by the loops, read by `status`; nothing is decided from it."""

    doing: dict[str, str] = field(factory=dict)
    """Current activity by loop name."""
    endpoint: str = NOT_ASKED
    """Result of the last pull."""
    failures: int = 0
    """Pulls for jobs that failed in a row (count)."""
    is_revoked: bool = False
    """True if the endpoint answered the last pull with this machine's revocation."""
    long_poll: bool | None = None
    """True if the endpoint holds polls; None until it has shown it."""
    extensions: tuple[str, ...] = ()
    """Extensions that the newest job offered, sorted."""
    skew: str = ""
    """Difference between this machine's clock and the endpoint's, if there is one."""
    pulls: Counter[str] = field(factory=Counter)
    """Number of pulls by result: `job`, `none`, `cut`, or the name of an error."""
    polling: bool = False
    """True while a pull is under way, and until its job is on disk."""
    asking_since: datetime | None = None
    """Time since when only the endpoint keeps this machine from taking a job; None while something else does."""
    last_pull_at: datetime | None = None
    """Time of the last pull that succeeded, with or without a job."""
    last_report_at: datetime | None = None
    """Time of the last accept, release or finish that succeeded."""
    changed: Notifier = field(factory=Notifier)
    """Notifies readers of a change."""

    def say(self, loop: str, doing: str) -> None:
        """Record the current activity of a loop."""
        if self.doing.get(loop) != doing:
            self.doing[loop] = doing
            self.changed.notify()
