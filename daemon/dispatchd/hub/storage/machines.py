"""Machines and licenses in the database, with the hashes of secrets and the times of revocations."""

from collections.abc import Callable
from typing import Final

from attrs import asdict, evolve, frozen
from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, update

from dispatchd.hub.domain.model import Machine
from dispatchd.hub.storage.database import Database, lock, upsert
from dispatchd.hub.storage.schema import LICENSES, MACHINES

_MACHINE: Final = MACHINES.c
_OF_PULL: Final = ("seen_at", "workflows", "version", "slots", "free_bytes")
"""Columns that a pull changes, and no other call."""

_OF_SERVER: Final = select(MACHINES).where(_MACHINE.server_id == bindparam("of_id"))
"""Query of a machine by server id; built once, because every call of a machine runs it."""


@frozen
class MachineStore:
    """Machines of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def add(self, machine: Machine) -> bool:
        """Store a new machine; return False, and change nothing, if its name or server id is taken."""
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
        """Return the names of machines by server id; one that was never activated has none."""
        query = select(_MACHINE.server_id, _MACHINE.name).where(
            _MACHINE.server_id != ""
        )
        with self._database.snapshot() as db:
            return {row.server_id: row.name for row in db.execute(query)}

    def by_server_id(self, server_id: str) -> Machine | None:
        """Return the machine with a server id, or None."""
        with self._database.look() as db:
            row = db.execute(_OF_SERVER, {"of_id": server_id}).mappings().first()
            return None if row is None else Machine(**row)

    def change(self, name: str, decide: Callable[[Machine], Machine]) -> Machine | None:
        """Replace a machine by the result of `decide`; return None if there is none. If `decide` raises, nothing changes."""

        def work(db: Connection) -> Machine | None:
            return _replace(db, _MACHINE.name == name, decide)

        return self._database.write(work)

    def enrol(
        self,
        key_hash: str,
        server_id: str,
        decide: Callable[[Machine, Machine | None], Machine],
    ) -> Machine | None:
        """Replace the machine with an enrolment key by the result of `decide`; return None if no machine has that key.

        `decide` also gets the machine that has `server_id` already; it loses this id if another machine gets it.
        """

        def work(db: Connection) -> Machine | None:
            lock(db, server_id)
            namesake = _one(db, _MACHINE.server_id == server_id)
            of_key = (_MACHINE.key_hash == key_hash) & (_MACHINE.key_hash != "")

            def decide_on(machine: Machine) -> Machine:
                after = decide(machine, namesake)
                is_new = namesake is not None and namesake.name != machine.name
                if namesake is not None and is_new and after.server_id == server_id:
                    of_namesake = _MACHINE.name == namesake.name
                    nameless = update(MACHINES).where(of_namesake).values(server_id="")
                    db.execute(nameless)
                return after

            return _replace(db, of_key, decide_on)

        return self._database.write(work)

    def note_pull(self, machine: Machine) -> None:
        """Store the time of a machine's pull, and what it says with it."""
        values = {name: getattr(machine, name) for name in _OF_PULL}

        def work(db: Connection) -> None:
            of_machine = _MACHINE.name == machine.name
            db.execute(update(MACHINES).where(of_machine).values(values))

        self._database.write(work)

    def add_license(self, license_id: str, *, now: float) -> None:
        """Store a license, unless it is stored already."""

        def work(db: Connection) -> None:
            values = {"id": license_id, "created_at": now, "revoked_at": 0}
            db.execute(upsert(db, LICENSES).values(values).on_conflict_do_nothing())

        self._database.write(work)


def _one(db: Connection, condition: ColumnElement[bool]) -> Machine | None:
    row = db.execute(select(MACHINES).where(condition)).mappings().first()
    return None if row is None else Machine(**row)


def _replace(
    db: Connection, condition: ColumnElement[bool], decide: Callable[[Machine], Machine]
) -> Machine | None:
    row = (
        db.execute(select(MACHINES).where(condition).with_for_update())
        .mappings()
        .first()
    )
    if row is None:
        return None
    before = Machine(**row)
    after = evolve(decide(before), name=before.name)
    db.execute(
        update(MACHINES).where(_MACHINE.name == before.name).values(asdict(after))
    )
    return after
