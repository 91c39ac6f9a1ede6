"""Progress of schedules, stored as marks: one for each schedule, which hub processes on one database share.

The mark is replaced in the transaction that admits the job, and only if it still is what the decision was based on. So a
due run is made a job by exactly one process, and not at all if that process dies before the commit.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen
from sqlalchemy import Connection, bindparam, insert, select, update

from dispatchd.hub.domain.schedules.plan import Plan
from dispatchd.hub.domain.schedules.progress import Progress, begun
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database, lock
from dispatchd.hub.storage.schema import MARKS

_PREFIX: Final = "schedule "
_OURS: Final = MARKS.c.name.startswith(_PREFIX, autoescape=True)
_ALL: Final = select(MARKS.c.name, MARKS.c.value).where(_OURS)
_REPLACE: Final = (
    update(MARKS)
    .where(MARKS.c.name == bindparam("of_name"), MARKS.c.value == bindparam("before"))
    .values(value=bindparam("after"))
)


@frozen(kw_only=True)
class Changes:
    """Difference between the stored schedules and those of a configuration: names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


@frozen
class ScheduleStore:
    """Schedules of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def texts(self) -> dict[str, str]:
        """Return the stored progress of each schedule (`Progress.text`), by name."""
        with self._database.look() as db:
            return _texts(db)

    def begin(
        self,
        plans: Mapping[str, Plan],
        *,
        now: float,
        terms: Mapping[str, str] = MappingProxyType({}),
    ) -> Changes:
        """Store the schedules of a hub process that starts: its configuration counts from now on.

        Args:
            plans: The plan of each schedule, by name; one that is disabled has an empty expression.
            now: The time (seconds since the epoch).
            terms: Digests of what their jobs are, by name.
        """
        return self._database.write(lambda db: self._begin(db, plans, now, terms))

    def replace(self, db: Connection, name: str, before: str, after: Progress) -> bool:
        """Replace the progress of a schedule within a transaction; return False if it isn't `before` any more."""
        values = {"of_name": _PREFIX + name, "before": before, "after": after.text}
        return db.execute(_REPLACE, values).rowcount > 0

    def skip(self, *, until: float) -> None:
        """Let no run before a time be caught up (seconds since the epoch)."""

        def work(db: Connection) -> None:
            for name, text in _texts(db).items():
                progress = Progress.read(text)
                latest = max(until, progress.until)
                self.replace(db, name, text, evolve(progress, until=latest))

        self._database.write(work)

    def _begin(
        self,
        db: Connection,
        plans: Mapping[str, Plan],
        now: float,
        terms: Mapping[str, str],
    ) -> Changes:
        lock(db, "schedules")
        texts = _texts(db)
        marks = MarkStore(self._database)
        changed = []
        for name, plan in plans.items():
            text = texts.get(name)
            before = None if text is None else Progress.read(text)
            after = begun(before, plan, now=now, terms=terms.get(name, ""))
            if before is None or text is None:
                values = {"name": _PREFIX + name, "value": after.text}
                db.execute(insert(MARKS).values(**values))
            elif after != before:
                self.replace(db, name, text, after)
                if plan != before.plan:
                    changed.append(name)
        removed = [name for name in texts if name not in plans]
        for name in removed:
            marks.remove(db, _PREFIX + name)
        added = [name for name in plans if name not in texts]
        return Changes(
            added=tuple(added), changed=tuple(changed), removed=tuple(removed)
        )


def _texts(db: Connection) -> dict[str, str]:
    return {row.name.removeprefix(_PREFIX): row.value for row in db.execute(_ALL)}
