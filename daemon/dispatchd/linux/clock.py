"""The daemon's clock: wall-clock times that never jump while the machine is up.

Deadlines are stored as times, so that a restarted daemon can keep them; but a wall clock can be set by
hours in between. So all times in records belong to one timeline: seconds since boot (CLOCK_BOOTTIME,
clock_gettime(2)) plus the wall-clock time of the boot as it was first measured. That anchor is stored, with the
boot's id (random(4)), in the state folder, so that the next daemon of the same boot continues the timeline. When no
job depends on it, the anchor is measured again, so that a clock that was wrong at boot doesn't stay wrong forever.
"""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, Self

import structlog
from attrs import define

from dispatchd.linux.untrusted_files import read_text

_FILE: Final = "clock.json"

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_TOLERATED_S: Final = 1.0
"""Difference to the wall clock that needs no new anchor (seconds)."""


class TimeSource(Protocol):
    """The clocks of a machine, in seconds."""

    def wall(self) -> float:
        """Return the wall-clock time, since the epoch; a person or NTP may set it at any moment."""
        ...

    def since_boot(self) -> float:
        """Return the time since boot, suspension included (CLOCK_BOOTTIME)."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...


class MachineTime:
    """The clocks of this machine; the only place that reads them."""

    def wall(self) -> float:
        """Return the wall-clock time, in seconds since the epoch."""
        return time.time()  # noqa: TID251  # the one home of the wall clock

    def since_boot(self) -> float:
        """Return the seconds since boot, suspension included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


@define
class SteadyClock:
    """Times of this machine; implements `tracking.ports.Clock` and `endpoint.caller.Clock`."""

    _folder: Path
    _time: TimeSource
    boot_at: float
    """Wall-clock time of the boot (seconds since the epoch)."""

    @classmethod
    def open(cls, folder: Path, time: TimeSource | None = None) -> Self:
        """Return the clock of a state folder: the one of this boot, or a new one."""
        time = time or MachineTime()
        try:
            anchor = json.loads(read_text(folder / _FILE))
            if anchor["boot_id"] == _boot_id():
                boot_at = float(anchor["boot_at"])
                datetime.fromtimestamp(boot_at + time.since_boot(), UTC)
                return cls(folder, time, boot_at)
        except (
            *(OSError, ValueError, TypeError, LookupError),
            *(ArithmeticError, RecursionError),
        ):
            # None yet, or a damaged one: a new anchor is as good as the first.
            pass
        clock = cls(folder, time, _boot_at(time))
        clock._keep()
        return clock

    def now(self) -> datetime:
        """Return the time on the timeline of this boot, aware, in UTC."""
        return datetime.fromtimestamp(self.boot_at + self._time.since_boot(), UTC)

    def wall(self) -> datetime:
        """Return the wall-clock time, aware, in UTC; for comparison with times that others have written."""
        return datetime.fromtimestamp(self._time.wall(), UTC)

    def since_boot(self) -> float:
        """Return the seconds since boot, suspension included; for deadlines and ages of this process."""
        return self._time.since_boot()

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return self._time.monotonic()

    def of_file(self, written_ns: int) -> datetime:
        """Return the time at which a file was written, on the timeline of this boot.

        The kernel stamps files with the wall clock, and it isn't known whether that was set before or after.
        So the later of the two possible times that is not in the future counts: silence is never overestimated.
        Whoever owns a file can give it any time; one that no calendar has counts as now.
        """
        now, jump = self.now(), self.jump()
        try:
            stamped = datetime.fromtimestamp(written_ns / 1e9, UTC)
            likely = [at for at in (stamped, stamped - jump) if at <= now]
        except (ValueError, OverflowError, OSError):
            return now
        return max(likely, default=now)

    def jump(self) -> timedelta:
        """Return the difference by which the wall clock was set since the anchor was measured."""
        return self.wall() - self.now()

    def settle(self) -> None:
        """Measure the anchor again if the wall clock was set; only while no deadline is stored."""
        if abs(self.jump().total_seconds()) > _TOLERATED_S:
            structlog.get_logger().info(
                "clock_was_set", by_s=round(self.jump().total_seconds(), 1)
            )
            self.boot_at = _boot_at(self._time)
            self._keep()

    def _keep(self) -> None:
        file = self._folder / _FILE
        # A command may do the same at this moment. The prefix is that of `agent/store/durable.py`, whose sweep removes it.
        aside = self._folder / f".aside-{os.getpid()}-{_FILE}"
        try:
            aside.write_text(
                json.dumps({"boot_id": _boot_id(), "boot_at": self.boot_at})
            )
            aside.replace(file)
        except OSError as error:
            # Without it a restart after a change of the clock moves deadlines; the daemon can still run.
            structlog.get_logger().warning("clock_not_kept", error=error.strerror)


def _boot_at(time: TimeSource) -> float:
    return time.wall() - time.since_boot()


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
