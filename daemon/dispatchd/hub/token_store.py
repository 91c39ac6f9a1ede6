"""Durable access tokens of people and programs, and the values that the hub makes once and keeps."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, insert, select, update

from dispatchd.hub.auth.scopes import ADMIN
from dispatchd.hub.database import Database, lock, upsert
from dispatchd.hub.model import Token
from dispatchd.hub.rules import Refused
from dispatchd.hub.schema import SECRETS, TOKENS

_TOKEN: Final = TOKENS.c
_FOUND: Final = select(TOKENS).where(
    _TOKEN.token_hash == bindparam("of_hash"), _TOKEN.revoked_at == 0
)
"""Built once, because every request of a person or program looks for its token."""

_VALID: Final = select(_TOKEN.name, _TOKEN.scopes).where(_TOKEN.revoked_at == 0)


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
        """Revoke a token; False if there is none of that name.

        Fails with Refused if no other token is for `admin`, because nobody could manage the hub any more.
        """
        of_name = _TOKEN.name == name
        revoke = update(TOKENS).where(of_name, _TOKEN.revoked_at == 0)

        def work(db: Connection) -> bool:
            lock(db, "revocation of tokens")
            found = {
                row.name: ADMIN in row.scopes.split() for row in db.execute(_VALID)
            }
            if found.get(name) and sum(found.values()) == 1:
                message = f"{name} is the last token for admin; add another one first"
                raise Refused(HTTPStatus.CONFLICT, message)
            return db.execute(revoke.values(revoked_at=now)).rowcount > 0

        return self._database.write(work)

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a value that is made once and kept."""
        query = select(SECRETS.c.value).where(SECRETS.c.name == name)

        def work(db: Connection) -> str:
            made = upsert(db, SECRETS).values(name=name, value=make())
            db.execute(made.on_conflict_do_nothing())
            return str(db.execute(query).scalar_one())

        with self._database.snapshot() as db:
            found = db.execute(query).scalar()
        return self._database.write(work) if found is None else str(found)

    def replace_secret(self, name: str, value: str) -> None:
        """Keep another value in place of one that is made once; each hub process has it with its next call."""

        def work(db: Connection) -> None:
            made = upsert(db, SECRETS).values(name=name, value=value)
            changed = {"value": made.excluded.value}
            db.execute(
                made.on_conflict_do_update(
                    index_elements=[SECRETS.c.name], set_=changed
                )
            )

        self._database.write(work)
