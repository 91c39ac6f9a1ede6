"""Decisions of the owner about dispatch, stored as marks: bindings of machines, by name, and the pause.

While dispatch is paused only cancel jobs are dispatched; jobs on machines continue.
"""

import json
from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, select

from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.events import ANYTHING
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database, announce
from dispatchd.hub.storage.schema import MARKS, PAUSED

_BOUND: Final = "machine bound "
"""Prefix of the mark of a bound machine; the machine's name follows."""


@frozen
class BindingStore:
    """Bindings of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def get(self, name: str) -> Binding:
        """Return the binding of a machine."""
        return _read(MarkStore(self._database).get(_BOUND + name))

    def all(self) -> dict[str, Binding]:
        """Return the bindings of all machines that have one, by name."""
        condition = MARKS.c.name.startswith(_BOUND, autoescape=True)
        with self._database.snapshot() as db:
            rows = db.execute(select(MARKS.c.name, MARKS.c.value).where(condition))
            return {row.name.removeprefix(_BOUND): _read(row.value) for row in rows}

    def put(self, name: str, binding: Binding) -> None:
        """Replace the binding of a machine, and wake every poll of every hub process."""
        marks = MarkStore(self._database)
        value = json.dumps([binding.workflows, binding.repositories])

        def work(db: Connection) -> None:
            marks.remove(db, _BOUND + name)
            if not binding.is_free:
                marks.add(db, _BOUND + name, value)
            announce(db, ANYTHING)

        self._database.write(work)


def _read(value: str) -> Binding:
    if not value:
        return FREE
    workflows, repositories = json.loads(value)
    return Binding(
        workflows=None if workflows is None else tuple(workflows),
        repositories=None if repositories is None else tuple(repositories),
    )


@frozen(kw_only=True)
class Pause:
    """Pause of dispatch, with its start (seconds since the epoch) and its reason."""

    since: float
    reason: str


@frozen
class PauseStore:
    """Pause of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
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
