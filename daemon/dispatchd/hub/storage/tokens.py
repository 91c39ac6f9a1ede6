"""Access tokens of people and programs in the database, and the hub's own secrets, which are made once."""

from collections.abc import Callable
from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, insert, select, update

from dispatchd.hub.domain.errors import LastAdminToken
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN
from dispatchd.hub.storage.database import Database, lock, upsert
from dispatchd.hub.storage.schema import SECRETS, TOKENS

_TOKEN: Final = TOKENS.c
_FOUND: Final = select(TOKENS).where(
    _TOKEN.token_hash == bindparam("of_hash"), _TOKEN.revoked_at == 0
)
"""Query of a valid token by its hash; built once, because every request of a person or program runs it."""

_VALID: Final = select(_TOKEN.name, _TOKEN.scopes).where(_TOKEN.revoked_at == 0)


@frozen
class TokenStore:
    """Tokens of a database.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    _database: Database

    def add(self, token: Token) -> bool:
        """Store a new token; return False, and change nothing, if its name is taken."""

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
        """Return the token with a hash if it is not revoked, or None."""
        with self._database.look() as db:
            row = db.execute(_FOUND, {"of_hash": token_hash}).mappings().first()
            return None if row is None else Token(**row)

    def named(self, name: str) -> Token | None:
        """Return the token with a name if it is not revoked, or None."""
        condition = (_TOKEN.name == name) & (_TOKEN.revoked_at == 0)
        with self._database.snapshot() as db:
            row = db.execute(select(TOKENS).where(condition)).mappings().first()
            return None if row is None else Token(**row)

    def revoke(self, name: str, *, now: float) -> bool:
        """Revoke a token; return False if there is no valid token of that name.

        Raises:
            LastAdminToken: No other token has the scope `admin`, so nobody could manage the hub.
        """
        of_name = _TOKEN.name == name
        revoke = update(TOKENS).where(of_name, _TOKEN.revoked_at == 0)

        def work(db: Connection) -> bool:
            lock(db, "revocation of tokens")
            is_admin = {
                row.name: ADMIN in row.scopes.split() for row in db.execute(_VALID)
            }
            if is_admin.get(name) and sum(is_admin.values()) == 1:
                raise LastAdminToken(name)
            return db.execute(revoke.values(revoked_at=now)).rowcount > 0

        return self._database.write(work)

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a secret; make and store it the first time."""
        query = select(SECRETS.c.value).where(SECRETS.c.name == name)

        def work(db: Connection) -> str:
            made = upsert(db, SECRETS).values(name=name, value=make())
            db.execute(made.on_conflict_do_nothing())
            return str(db.execute(query).scalar_one())

        with self._database.snapshot() as db:
            value = db.execute(query).scalar()
        return self._database.write(work) if value is None else str(value)

    def replace_secret(self, name: str, value: str) -> None:
        """Replace a secret; each hub process uses the new one from its next call on."""

        def work(db: Connection) -> None:
            made = upsert(db, SECRETS).values(name=name, value=value)
            changed = {"value": made.excluded.value}
            db.execute(
                made.on_conflict_do_update(
                    index_elements=[SECRETS.c.name], set_=changed
                )
            )

        self._database.write(work)
