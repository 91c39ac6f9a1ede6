"""Durations, points in time and sizes as texts: the one parser of each, and the formats of all commands, pages and messages.

No value fails: durations below 0 or that are no number count as 0, and a time outside of the calendar as its end.
"""

import re
from datetime import UTC, datetime
from typing import Final

_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Ends of the calendar (`datetime.MINYEAR`, `datetime.MAXYEAR`)."""

_LONGEST_S: Final = (_LAST - _FIRST).total_seconds()

_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
"""Units with their length (seconds), longest first."""

_TENTHS_BELOW_S: Final = 10.0

_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
"""Units of sizes (bytes), largest first."""

_TENTHS_BELOW: Final = 10

_NUMBER: Final = r"[0-9]{1,9}(?:\.[0-9]{1,3})?"
_DURATION: Final = re.compile(
    rf"(?:({_NUMBER}) ?d)? ?(?:({_NUMBER}) ?h)? ?(?:({_NUMBER}) ?m(?:in)?)? ?(?:({_NUMBER}) ?s?)?"
)


def parse_duration(text: str) -> float:
    """Return a duration in seconds, from `90s`, `10m`, `10 min`, `2h`, `1d`, `1.5h` or `2h 5min`; a bare number is seconds.

    Raises:
        ValueError: The text has another form, or the duration is longer than the calendar.
    """
    match = _DURATION.fullmatch(text.strip())
    counts = [] if match is None else match.groups(default="")
    seconds = sum(
        float(count) * length
        for count, (_, length) in zip(counts, _UNITS, strict=False)
        if count
    )
    if not any(counts) or seconds > _LONGEST_S:
        message = f"{text!r:.40} is no duration such as 90s, 10m, 2h or 1d"
        raise ValueError(message)
    return float(seconds)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `2 h 5 min`; below 10 s with tenths, as `2.5 s`."""
    seconds = _bounded(seconds)
    tenths = round(seconds, 1)
    if tenths < _TENTHS_BELOW_S:
        return f"{tenths:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        # A unit of 0 between two others is not left out: `1 d 5 s` is not more exact than `1 d`.
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def rough(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down, such as `3 min`."""
    whole = int(_bounded(seconds))
    for unit, length in _UNITS:
        if whole >= length:
            return f"{whole // length} {unit}"
    return "0 s"


def ago(seconds: float | None) -> str:
    """Return the distance of an event from now, such as `3 min ago`, or `in 3 min` below 0; `never` for None."""
    if seconds is None:
        return "never"
    return f"in {rough(-seconds)}" if seconds < 0 else f"{rough(seconds)} ago"


def utc(at: float | datetime) -> str:
    """Return a point in time for people, such as `2026-11-28 12:00:00 UTC`. Numbers are seconds since the epoch."""
    return f"{_instant(at).replace(tzinfo=None).isoformat(' ', 'seconds')} UTC"


def iso(at: float | datetime) -> str:
    """Return a point in time for programs: ISO 8601 in UTC, such as `2026-11-28T12:00:00Z`. Numbers are seconds since the epoch."""
    return f"{_instant(at).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def iso_or_none(at: float | datetime | None) -> str | None:
    """Return a point in time as `iso` does, or None for none."""
    return None if at is None else iso(at)


def parse_time(text: str) -> float | None:
    """Return a point in time (seconds since the epoch) from ISO 8601, in UTC if it names no zone; None for another text."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _bounded(seconds: float) -> float:
    # In this order NaN becomes 0.
    return min(_LONGEST_S, max(0.0, seconds))


def _instant(at: float | datetime) -> datetime:
    """Return a point in time in UTC; the nearest end of the calendar for one outside of it."""
    if not isinstance(at, datetime):
        return datetime.fromtimestamp(
            min(_LAST.timestamp(), max(_FIRST.timestamp(), at)), UTC
        )
    try:
        return at.astimezone(UTC)
    except OverflowError:
        # Its zone moves it over the end.
        return _FIRST if at.year == _FIRST.year else _LAST


def size(count: int) -> str:
    """Return a number of bytes in its largest unit, rounded down, such as `53 GiB`; below 10 with tenths, as `1.5 GiB`."""
    for unit, length in _SIZES:
        if count >= _TENTHS_BELOW * length:
            return f"{count // length} {unit}"
        if count >= length:
            tenths = count * 10 // length
            return f"{tenths // 10}.{tenths % 10} {unit}"
    return f"{max(count, 0)} B"
