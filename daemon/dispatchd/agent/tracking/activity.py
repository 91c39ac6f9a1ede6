"""Current activity of each loop, in a few words, and abilities that the endpoint has shown."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field

from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import RemoteError, Revoked

NOT_ASKED: Final = "not asked yet"
"""Result of the last pull, before the first one has ended."""

_WELL: Final = "ok"
"""Result of a pull that the endpoint has answered."""


@define
class Activity:
    """Written by the loops, read by `status`; nothing is decided from it."""

    doing: dict[str, str] = field(factory=dict, init=False)
    """Current activity by loop name."""
    endpoint: str = field(default=NOT_ASKED, init=False)
    """Result of the last pull."""
    failures: int = field(default=0, init=False)
    """Pulls for jobs that failed in a row (count)."""
    is_revoked: bool = field(default=False, init=False)
    """True if the endpoint answered the last pull with this machine's revocation."""
    long_poll: bool | None = field(default=None, init=False)
    """True if the endpoint holds polls; None until it has shown it."""
    extensions: tuple[str, ...] = field(default=(), init=False)
    """Extensions that the newest job offered, sorted."""
    skew: str = field(default="", init=False)
    """Difference between this machine's clock and the endpoint's, if there is one."""
    pulls: Counter[str] = field(factory=Counter, init=False)
    """Number of pulls by result: `job`, `none`, `cut`, or the name of an error."""
    polling: int = field(default=0, init=False)
    """Pulls that are under way, and whose job isn't on disk yet (count)."""
    asking_since_s: float | None = field(default=None, init=False)
    """Time since when only the endpoint keeps this machine from taking a job (seconds since boot); None while
    something else does."""
    last_pull_s: float | None = field(default=None, init=False)
    """Time of the last pull that succeeded, with or without a job (seconds since boot)."""
    last_report_s: float | None = field(default=None, init=False)
    """Time of the last accept, release or finish that succeeded (seconds since boot)."""
    changed: Notifier = field(factory=Notifier, init=False)
    """Notifies readers of a change."""

    @property
    def is_well(self) -> bool:
        """True if the endpoint has answered the last pull."""
        return self.endpoint == _WELL

    def say(self, loop: str, doing: str) -> None:
        """Record the current activity of a loop."""
        if self.doing.get(loop) != doing:
            self.doing[loop] = doing
            self.changed.notify()

    def ask_since(self, now_s: float) -> None:
        """Record that from now on, or since an earlier time, only the endpoint keeps this machine from taking a job."""
        if self.asking_since_s is None:
            self.asking_since_s = now_s

    def stop_asking(self) -> None:
        """Record that this machine takes no job for a reason of its own."""
        self.asking_since_s = None

    @contextmanager
    def poll(self) -> Iterator[None]:
        """Record that a pull is under way, or its job isn't on disk yet, in a block."""
        self.polling += 1
        try:
            yield
        finally:
            self.polling -= 1
            self.changed.notify()

    def pulled(self, result: str, now_s: float) -> None:
        """Record a pull that the endpoint has answered."""
        self.pulls[result] += 1
        self.endpoint = _WELL
        self.failures, self.is_revoked = 0, False
        self.last_pull_s = now_s

    def offer(self, extensions: tuple[str, ...]) -> None:
        """Record the extensions that a job offers."""
        self.extensions = tuple(sorted(extensions))

    def show_long_poll(self, *, holds: bool) -> None:
        """Record whether the endpoint has held a poll."""
        self.long_poll = holds

    def pull_failed(self, error: RemoteError, failures: int) -> None:
        """Record a failed pull, and the number of failures in a row with it."""
        kind = type(error).__name__
        self.pulls[kind] += 1
        self.endpoint = f"{kind}: {error.reason}"
        self.failures, self.is_revoked = failures, isinstance(error, Revoked)

    def measure_skew(self, skew: str) -> None:
        """Record the difference between the clocks; empty for none."""
        self.skew = skew

    def reported(self, now_s: float) -> None:
        """Record a report that the endpoint has answered."""
        self.last_report_s = now_s
