"""Clock of a database that several hubs share: their own clocks may differ, and one reads the times that another writes."""

import time
from collections.abc import Callable

from attrs import define, field
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
