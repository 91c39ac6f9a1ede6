"""What each loop is doing now, in a few words, and what the endpoint has shown that it can."""

from collections import Counter
from datetime import datetime
from typing import Final

import anyio
from attrs import define, field

NOT_ASKED: Final = "not asked yet"
"""How the last pull went, before the first one has ended."""


@define
class Board:
    """Written by the loops, read by `status`; nothing is decided from it."""

    doing: dict[str, str] = field(factory=dict)
    """Loop name to what it does now."""
    endpoint: str = NOT_ASKED
    """How the last pull went."""
    failures: int = 0
    """How many pulls for jobs have failed in a row (count)."""
    is_revoked: bool = False
    """Whether the endpoint has answered the last pull with this machine's revocation."""
    long_poll: bool | None = None
    """Whether the endpoint holds polls; None until it has shown it."""
    extensions: tuple[str, ...] = ()
    """What the newest job offered, sorted."""
    skew: str = ""
    """How this machine's clock differs from the endpoint's, if it does."""
    pulls: Counter[str] = field(factory=Counter)
    """How pulls ended, with their count: `job`, `none`, `cut`, or the name of an error."""
    polling: bool = False
    """Whether a pull is on its way at this moment, or what it has brought isn't on disk yet."""
    asking_since: datetime | None = None
    """Since when nothing but the endpoint keeps this machine from taking a job; None while something does."""
    last_pull_at: datetime | None = None
    """When a pull last succeeded, with or without a job."""
    last_report_at: datetime | None = None
    """When an accept, release or finish last succeeded."""
    _changed: anyio.Event = field(factory=anyio.Event)

    @property
    def changed(self) -> anyio.Event:
        """The event of the next change."""
        return self._changed

    def say(self, loop: str, doing: str) -> None:
        """Write down what a loop is doing."""
        if self.doing.get(loop) != doing:
            self.doing[loop] = doing
            self.ring()

    def ring(self) -> None:
        """Tell readers that something here has changed."""
        self._changed.set()
        self._changed = anyio.Event()
