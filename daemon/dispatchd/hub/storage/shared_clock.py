"""Clocks of the hub. Hubs that share a database have its clock: one reads the times that another writes."""

import time
from collections.abc import Callable
from typing import Self

from attrs import define, field, frozen
from sqlalchemy import text

from dispatchd.hub.storage.database import Database

_TIME = text("SELECT extract(epoch FROM clock_timestamp())::float8")


def since_boot() -> float:
    """Return the seconds since boot, suspension included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@define
class SharedClock:
    """Database's time, continued between two measurements by a clock that can't be set.

    Each call of `measure` blocks; the first has to come before the first call of `now`.
    """

    _database: Database
    _running: Callable[[], float] = since_boot
    _ahead_s: float = field(default=0.0, init=False)
    """Lead of the database's time over the running clock (seconds)."""

    def now(self) -> float:
        """Return the database's time (seconds since the epoch)."""
        return self._running() + self._ahead_s

    def measure(self) -> None:
        """Compare the clocks.

        Raises:
            StorageBusy: The database can't be used now.
        """
        with self._database.snapshot() as db:
            before = self._running()
            shown = float(db.execute(_TIME).scalar_one())
            after = self._running()
        self._ahead_s = shown - (before + after) / 2


def _need_no_measure() -> None:
    """Do nothing: this machine's own clock needs no measurement."""


@frozen(kw_only=True)
class Clock:
    """Clock of a hub."""

    now: Callable[[], float]
    """Returns the time (seconds since the epoch) by the wall clock, or by the clock of a shared database."""
    measure: Callable[[], None] = _need_no_measure
    """Keeps `now` accurate. Blocks; fails with StorageBusy if the database can't be used now."""
    since_boot: Callable[[], float] = since_boot
    """Returns the seconds since boot, suspension included."""

    @classmethod
    def of(cls, database: Database) -> Self:
        """Return the clock of the hubs with a database. Blocks; fails with StorageBusy if that can't be used now."""
        if not database.is_shared:
            return cls(now=time.time)  # noqa: TID251  # the hub's one clock
        shared = SharedClock(database)
        shared.measure()
        return cls(now=shared.now, measure=shared.measure)
