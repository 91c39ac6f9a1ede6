"""Depth of the queue and waits over time, from the waits of jobs. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from statistics import median
from typing import Final

from attrs import frozen

from dispatchd.hub.storage.jobs.reader import Wait

BARS: Final = 48
"""Bars of a chart (count)."""

_HEIGHT: Final = 60
"""Height of the highest bar, in the chart's own unit."""


@frozen(kw_only=True)
class Bar:
    """Part of the time that a chart shows."""

    ends_at: float
    """Its end (seconds since the epoch)."""
    waiting: int
    """Jobs that waited at its end (count)."""
    longest_s: float
    """Longest wait that ended in it, or continues at its end (seconds)."""
    depth_height: int
    wait_height: int


@frozen(kw_only=True)
class Course:
    """Queue over a time."""

    bars: Sequence[Bar]
    most: int
    """Most jobs that waited at the end of a bar (count)."""
    longest_s: float
    median_s: float
    """Median of the waits that have ended (seconds)."""
    ended: int
    """Waits that have ended (count)."""


def course(waits: Sequence[Wait], *, since: float, now: float) -> Course:
    """Return how many jobs waited and for how long, from a time until now (seconds since the epoch)."""
    step_s = (now - since) / BARS
    created = sorted(wait.created_at for wait in waits)
    ends = sorted(wait.ended_at for wait in waits if wait.ended_at)
    longest = [0.0] * BARS
    for wait in waits:
        first = _bar(wait.ended_at or now, since, step_s)
        if first >= 0:
            waited_s = (wait.ended_at or now) - wait.created_at
            longest[first] = max(longest[first], waited_s)
    times = [since + step_s * (number + 1) for number in range(BARS)]
    depths = [
        max(0, bisect_right(created, at) - bisect_right(ends, at)) for at in times
    ]
    most, longest_s = max(depths), max(longest)
    over = [
        max(0.0, wait.ended_at - wait.created_at)
        for wait in waits
        if wait.ended_at and wait.ended_at >= since
    ]
    return Course(
        bars=[
            Bar(
                ends_at=at,
                waiting=depth,
                longest_s=wait_s,
                depth_height=_height(depth, most),
                wait_height=_height(wait_s, longest_s),
            )
            for at, depth, wait_s in zip(times, depths, longest, strict=True)
        ],
        most=most,
        longest_s=longest_s,
        median_s=median(over) if over else 0.0,
        ended=len(over),
    )


def _bar(at: float, since: float, step_s: float) -> int:
    """Return the number of the bar of a time; -1 for one before the first."""
    return -1 if at < since else min(BARS - 1, int((at - since) / step_s))


def _height(value: float, most: float) -> int:
    """Return the height of a bar; one that isn't nothing can be seen."""
    return max(1, round(_HEIGHT * value / most)) if value > 0 else 0
