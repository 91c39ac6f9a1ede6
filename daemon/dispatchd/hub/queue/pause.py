"""Pause of dispatch: while it lasts no job is handed out but cancel jobs; what machines have goes on."""

import json

from attrs import asdict, frozen
from sqlalchemy import Connection

from dispatchd.hub.database import Database, announce
from dispatchd.hub.domain.news import ANYTHING
from dispatchd.hub.mark_store import MarkStore
from dispatchd.hub.schema import PAUSED


@frozen(kw_only=True)
class Pause:
    """Since when dispatch is paused (seconds since the epoch), and why."""

    since: float
    reason: str


@frozen
class PauseStore:
    """The pause of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    @property
    def _marks(self) -> MarkStore:
        return MarkStore(self._database)

    def get(self) -> Pause | None:
        """Return the pause, or None."""
        mark = self._marks.get(PAUSED)
        return Pause(**json.loads(mark)) if mark else None

    def begin(self, pause: Pause) -> None:
        """Pause dispatch; of two pauses the newer one counts."""
        self._marks.put(PAUSED, json.dumps(asdict(pause)))

    def end(self) -> bool:
        """Resume dispatch, and wake every poll of every hub process; return whether it was paused."""

        def work(db: Connection) -> bool:
            was_paused = self._marks.remove(db, PAUSED)
            announce(db, ANYTHING)
            return was_paused

        return self._database.write(work)
