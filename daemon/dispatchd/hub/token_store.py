"""Durable access tokens of people and programs, and the values that the hub makes once and keeps."""

from collections.abc import Callable
from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, insert, select, update

from dispatchd.hub.database import Database, upsert
from dispatchd.hub.model import Token
from dispatchd.hub.schema import SECRETS, TOKENS

_TOKEN: Final = TOKENS.c
_FOUND: Final = select(TOKENS).where(
    _TOKEN.token_hash == bindparam("of_hash"), _TOKEN.revoked_at == 0
)
"""Built once, because every request of a person or program looks for its token."""


@frozen
class TokenStore:
    """The tokens of a database. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    _database: Database

    def add(self, token: Token) -> bool:
        """Keep a new token; False, and nothing changes, if its name is taken."""

        def work(db: Connection) -> bool:
            if db.execute(select(_TOKEN.name).where(_TOKEN.name == token.name)).first():
                return False
            db.execute(insert(TOKENS).values(asdict(token)))
            return True

        return self._database.write(work)

    def list(self) -> list[Token]:
        """Return every token, by name."""
        with self._database.snapshot() as db:
            rows = db.execute(select(TOKENS).order_by(_TOKEN.name)).mappings().all()
            return [Token(**row) for row in rows]

    def find(self, token_hash: str) -> Token | None:
        """Return the token that has this hash and is not revoked, or None."""
        with self._database.snapshot() as db:
            row = db.execute(_FOUND, {"of_hash": token_hash}).mappings().first()
            return None if row is None else Token(**row)

    def named(self, name: str) -> Token | None:
        """Return the token of this name that is not revoked, or None."""
        wanted = (_TOKEN.name == name) & (_TOKEN.revoked_at == 0)
        with self._database.snapshot() as db:
            row = db.execute(select(TOKENS).where(wanted)).mappings().first()
            return None if row is None else Token(**row)

    def revoke(self, name: str, *, now: float) -> bool:
        """Let a token count no more; False if there is none of that name."""
        revoke = update(TOKENS).where(_TOKEN.name == name, _TOKEN.revoked_at == 0)

        def work(db: Connection) -> bool:
            return db.execute(revoke.values(revoked_at=now)).rowcount > 0

        return self._database.write(work)

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a value that is made once and kept."""

        def work(db: Connection) -> str:
            query = select(SECRETS.c.value).where(SECRETS.c.name == name)
            found = db.execute(query).scalar()
            if found is not None:
                return str(found)
            made = upsert(db, SECRETS).values(name=name, value=make())
            db.execute(made.on_conflict_do_nothing())
            return str(db.execute(query).scalar_one())

        return self._database.write(work)
