"""How far this machine's clock is from the endpoint's, measured at every reply (RFC 9110, 6.6.1, Date)."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import define, field

from dispatchd.domain.http_headers import http_date

TOLERATED_S: Final = 60.0
"""A difference that harms nobody (seconds)."""


@define
class Skew:
    """The difference as of the last reply that had a date."""

    seconds: float | None = field(default=None, init=False)
    """By how much this clock is ahead (below 0: behind); None before the first reply with a date."""

    _heard: tuple[datetime, float] | None = field(default=None, init=False)

    def see(self, headers: Mapping[str, str], wall: datetime, monotonic: float) -> None:
        """Measure the skew from a reply's headers and the two clocks at its arrival."""
        sent_at = http_date(headers.get("date", ""))
        if sent_at is not None:
            self.seconds = (wall - sent_at).total_seconds()
            self._heard = (sent_at, monotonic)

    def endpoint_time(self, monotonic: float) -> datetime | None:
        """Return the endpoint's time now, whatever this machine's clock is set to; None if it isn't known.

        It may be behind: a time that the machine was suspended for isn't counted.
        """
        if self._heard is None:
            return None
        sent_at, heard_s = self._heard
        return sent_at + timedelta(seconds=monotonic - heard_s)

    @property
    def words(self) -> str:
        """The difference in words, or empty where it is tolerable or not known."""
        if self.seconds is None or abs(self.seconds) <= TOLERATED_S:
            return ""
        way = "ahead of" if self.seconds > 0 else "behind"
        return (
            f"this machine's clock is {_length(abs(self.seconds))} {way} the endpoint's"
        )


def _length(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
