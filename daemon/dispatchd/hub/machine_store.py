"""Durable machines and licenses: who may pull, by which secret, and since when not any more."""

from collections.abc import Callable
from typing import Final

from attrs import asdict, evolve, frozen
from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, update

from dispatchd.hub.database import Database, lock, upsert
from dispatchd.hub.model import Machine
from dispatchd.hub.schema import LICENSES, MACHINES

_MACHINE: Final = MACHINES.c
_OF_SERVER: Final = select(MACHINES).where(_MACHINE.server_id == bindparam("of_id"))
"""Built once, because every call of a machine looks for it."""


@frozen
class MachineStore:
    """The machines of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def add(self, machine: Machine) -> bool:
        """Keep a new machine; False, and nothing changes, if its name or what it calls itself is taken."""
        taken = _MACHINE.name == machine.name
        if machine.server_id:
            taken |= _MACHINE.server_id == machine.server_id

        def work(db: Connection) -> bool:
            lock(db, machine.server_id)
            if _one(db, taken) is not None:
                return False
            db.execute(insert(MACHINES).values(asdict(machine)))
            return True

        return self._database.write(work)

    def list(self) -> list[Machine]:
        """Return every machine, by name."""
        with self._database.snapshot() as db:
            rows = db.execute(select(MACHINES).order_by(_MACHINE.name)).mappings().all()
            return [Machine(**row) for row in rows]

    def names(self) -> dict[str, str]:
        """Return every machine's name, by what it calls itself."""
        query = select(_MACHINE.server_id, _MACHINE.name)
        with self._database.snapshot() as db:
            return {row.server_id: row.name for row in db.execute(query)}

    def by_server_id(self, server_id: str) -> Machine | None:
        """Return the machine that calls itself so, or None."""
        with self._database.snapshot() as db:
            row = db.execute(_OF_SERVER, {"of_id": server_id}).mappings().first()
            return None if row is None else Machine(**row)

    def change(self, name: str, decide: Callable[[Machine], Machine]) -> Machine | None:
        """Replace a machine by what `decide` makes of it; None if there is none. What it raises changes nothing."""

        def work(db: Connection) -> Machine | None:
            return _replace(db, _MACHINE.name == name, decide)

        return self._database.write(work)

    def enrol(
        self,
        key_hash: str,
        server_id: str,
        decide: Callable[[Machine, Machine | None], Machine],
    ) -> Machine | None:
        """Replace the machine with an enrolment key by what `decide` makes of it; None if nobody has that key.

        `decide` also gets the machine that calls itself `server_id` already, which gives this up if another one gets it.
        """

        def work(db: Connection) -> Machine | None:
            lock(db, server_id)
            namesake = _one(db, _MACHINE.server_id == server_id)
            wanted = (_MACHINE.key_hash == key_hash) & (_MACHINE.key_hash != "")

            def decide_on(machine: Machine) -> Machine:
                after = decide(machine, namesake)
                is_new = namesake is not None and namesake.name != machine.name
                if namesake is not None and is_new and after.server_id == server_id:
                    of_namesake = _MACHINE.name == namesake.name
                    nameless = update(MACHINES).where(of_namesake).values(server_id="")
                    db.execute(nameless)
                return after

            return _replace(db, wanted, decide_on)

        return self._database.write(work)

    def note_pull(self, name: str, workflows: str, *, now: float) -> None:
        """Note that a machine has pulled, and what it declares (JSON)."""
        values = {"seen_at": now, "workflows": workflows}

        def work(db: Connection) -> None:
            db.execute(update(MACHINES).where(_MACHINE.name == name).values(values))

        self._database.write(work)

    def add_license(self, license_id: str, *, now: float) -> None:
        """Keep a license, if it isn't kept yet."""

        def work(db: Connection) -> None:
            values = {"id": license_id, "created_at": now, "revoked_at": 0}
            db.execute(upsert(db, LICENSES).values(values).on_conflict_do_nothing())

        self._database.write(work)


def _one(db: Connection, wanted: ColumnElement[bool]) -> Machine | None:
    row = db.execute(select(MACHINES).where(wanted)).mappings().first()
    return None if row is None else Machine(**row)


def _replace(
    db: Connection, wanted: ColumnElement[bool], decide: Callable[[Machine], Machine]
) -> Machine | None:
    row = (
        db.execute(select(MACHINES).where(wanted).with_for_update()).mappings().first()
    )
    if row is None:
        return None
    before = Machine(**row)
    after = evolve(decide(before), name=before.name)
    db.execute(
        update(MACHINES).where(_MACHINE.name == before.name).values(asdict(after))
    )
    return after
