"""Pause of dispatch: while it lasts only cancel jobs are dispatched; jobs on machines go on."""

import json

from attrs import asdict, frozen
from sqlalchemy import Connection

from dispatchd.hub.domain.events import ANYTHING
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database, announce
from dispatchd.hub.storage.schema import PAUSED


@frozen(kw_only=True)
class Pause:
    """Pause of dispatch, with its start (seconds since the epoch) and its reason."""

    since: float
    reason: str


@frozen
class PauseStore:
    """Pause of a database.

    Calls block, and may come from any thread. Each fails with StorageBusy if the database can't be used now.
    """

    _database: Database

    @property
    def _marks(self) -> MarkStore:
        return MarkStore(self._database)

    def get(self) -> Pause | None:
        """Return the pause, or None."""
        mark = self._marks.get(PAUSED)
        return Pause(**json.loads(mark)) if mark else None

    def begin(self, pause: Pause) -> None:
        """Pause dispatch; a newer pause replaces an older one."""
        self._marks.put(PAUSED, json.dumps(asdict(pause)))

    def end(self) -> bool:
        """Resume dispatch, and wake every poll of every hub process; return whether it was paused."""

        def work(db: Connection) -> bool:
            was_paused = self._marks.remove(db, PAUSED)
            announce(db, ANYTHING)
            return was_paused

        return self._database.write(work)
