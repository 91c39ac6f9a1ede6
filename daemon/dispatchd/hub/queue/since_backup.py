"""Treatment of the time between a backup and its restore: jobs that ran, and events that came."""

from enum import StrEnum
from pathlib import Path
from typing import Final

from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.dispatch_rules import Pause, PauseStore
from dispatchd.hub.storage.jobs.schedules import ScheduleStore
from dispatchd.protocol.times import utc

SKIPPED: Final = "it came before the restore of a backup, which was told to skip it"

_MARK: Final = "skip deliveries before"


class SinceBackup(StrEnum):
    """Treatment of GitHub's events since the backup."""

    LOOK = "look"
    """Fetch them, and dispatch no job until the owner has looked."""
    RUN = "run"
    """Fetch and run them; machines repeat the results of jobs that they have run."""
    SKIP = "skip"
    """Store them as ignored, and catch up no run of a schedule."""


def prepare(database: Database, choice: SinceBackup, *, file: Path, now: float) -> None:
    """Prepare a restored hub's start for the owner's choice. Blocks.

    Raises:
        StorageBusy: The database can't be used now.
    """
    if choice is SinceBackup.LOOK:
        reason = (
            f"restored from {file.name} on {utc(now)}; "
            "what has run since that backup may wait again"
        )
        PauseStore(database).begin(Pause(since=now, reason=reason))
    elif choice is SinceBackup.SKIP:
        MarkStore(database).put(_MARK, str(now))
        ScheduleStore(database).skip(until=now)


def skip_before(database: Database) -> float:
    """Return the time before which GitHub's deliveries are skipped (seconds since the epoch); 0 for none. Blocks."""
    return float(MarkStore(database).get(_MARK) or 0)
