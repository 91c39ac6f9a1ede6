"""Difference between this machine's clock and the endpoint's, measured at every reply (RFC 9110, 6.6.1, Date)."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import define, field, frozen

from dispatchd.network.http_headers import http_date
from dispatchd.protocol.times import duration

TOLERATED_S: Final = 60.0
"""Largest harmless difference (seconds)."""


RESOLUTION_S: Final = 2.0
"""Resolution of a `Date` (seconds): smaller differences count as none. It has whole seconds, and servers such as uvicorn renew it once a second."""


@frozen
class Reading:
    """Reading of the clocks: the wall clock, and seconds that never go back."""

    wall: datetime
    monotonic: float


@define
class Skew:
    """Difference at the last reply that had a date."""

    seconds: float | None = field(default=None, init=False)
    """Least lead of this clock (seconds; below 0: behind), 0 if they may agree; None before the first date."""

    _heard: tuple[datetime, float] | None = field(default=None, init=False)

    def see(self, headers: Mapping[str, str], called: Reading, heard: Reading) -> None:
        """Measure the skew from a reply's headers, and from the clocks at the call and at its reply.

        A server may date its reply at any moment in between: a poll is held for minutes.
        """
        sent_at = http_date(headers.get("date", ""))
        if sent_at is None:
            return
        took = timedelta(seconds=heard.monotonic - called.monotonic)
        # The earlier of the two: the wall clock may have been set meanwhile, or the machine suspended.
        earliest = min(called.wall, heard.wall - took)
        self.seconds = _beyond_s(sent_at, earliest, heard.wall)
        self._heard = (sent_at, heard.monotonic)

    def endpoint_time(self, monotonic: float) -> datetime | None:
        """Return the endpoint's time now, whatever this machine's clock is set to; None if it isn't known.

        It may be behind: the time of a suspension isn't counted.
        """
        if self._heard is None:
            return None
        sent_at, heard_s = self._heard
        return sent_at + timedelta(seconds=monotonic - heard_s)

    @property
    def message(self) -> str:
        """Difference in words; empty if it is tolerable or not known."""
        if self.seconds is None or abs(self.seconds) <= TOLERATED_S:
            return ""
        way = "ahead of" if self.seconds > 0 else "behind"
        return f"this machine's clock is {duration(abs(self.seconds))} {way} the endpoint's"


def _beyond_s(date: datetime, earliest: datetime, latest: datetime) -> float:
    """Return the seconds by which an interval of this clock is after a date (below 0: before); 0 if it includes it."""
    ahead_s, behind_s = (
        (earliest - date).total_seconds(),
        (date - latest).total_seconds(),
    )
    if ahead_s >= RESOLUTION_S:
        return ahead_s
    return -behind_s if behind_s >= RESOLUTION_S else 0.0
