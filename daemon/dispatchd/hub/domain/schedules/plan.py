"""Due times of a schedule: a cron expression in a time zone, and mistakes in both.

Cron expressions mean what they mean to Debian's cron, also at changes of summer time. One with a fixed minute and hour is
due once on each day that it names: at the first minute after a gap, and at the first of two equal times. One whose minute
or hour begins with `*` goes by elapsed time.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from attrs import frozen
from cronsim import CronSim, CronSimError

_MINUTE_S: Final = 60.0
_FIELDS: Final = 5
_SOME_TIME: Final = 1_767_225_600.0
"""Time from which a new expression must be due at some time: 2026-01-01 (seconds since the epoch)."""


@frozen(kw_only=True)
class Plan:
    """Cron expression and the time zone in which it counts."""

    cron: str
    timezone: str

    def after(self, at: float) -> Iterator[float]:
        """Yield the due times after a time, in ascending order (seconds since the epoch)."""
        last = at
        # The calendar ends with the year 9999: a wrong clock, or an expression that is due in 3000 years.
        with suppress(OverflowError):
            for due in CronSim(self.cron, _local(at, self.timezone)):
                # Two times of the expression may be one instant after a gap, and a start in a repeated hour yields its first pass.
                if due.timestamp() > last:
                    last = due.timestamp()
                    yield last

    def next_after(self, at: float) -> float | None:
        """Return the first due time after a time; None if there is none in 50 years (seconds since the epoch)."""
        return next(self.after(at), None)

    def newest(self, after: float, until: float) -> float | None:
        """Return the last due time after a time and until another one; None for none (seconds since the epoch).

        There may be millions in between, so it is found by halving.
        """
        last = self.next_after(after)
        if last is None or last > until:
            return None
        low, high = last, until
        # Due times are a minute apart at least.
        while high - low >= _MINUTE_S:
            middle = (low + high) / 2
            found = self.next_after(middle)
            if found is None or found > until:
                high = middle
            else:
                low = last = found
        return last


def cron_problem(cron: str) -> str:
    """Return what is wrong with a cron expression, as words after its key; empty if it can be used."""
    if len(cron.split()) != _FIELDS:
        return "must have five fields: minute, hour, day of month, month, day of week"
    try:
        first = Plan(cron=cron, timezone="UTC").next_after(_SOME_TIME)
    except CronSimError as error:
        reason = str(error).lower()
        return f"must be a cron expression such as '30 2 * * 1-5'; this has a {reason}"
    return "must be due at some time; this never is" if first is None else ""


def zone_problem(name: str) -> str:
    """Return what is wrong with the name of a time zone, as words after its key; empty if it can be used."""
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        if not available_timezones():
            return "must be UTC: this machine has no time zone data; install tzdata"
        return "must name a time zone such as Europe/Berlin (IANA) or UTC"
    return ""


def _local(at: float, zone: str) -> datetime:
    """Return a time in a time zone.

    Raises:
        OverflowError: It is in none of the years 1 to 9999.
    """
    try:
        return datetime.fromtimestamp(at, _zone(zone))
    except ValueError as error:
        raise OverflowError(str(error)) from error


def _zone(name: str) -> tzinfo:
    # UTC needs no time zone data.
    return UTC if name == "UTC" else ZoneInfo(name)
