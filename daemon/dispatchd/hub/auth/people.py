"""People who have logged in by another service, and their sessions: a sealed cookie.

Nothing of a session is stored: the cookie has the person's name, their names at the service and GitHub's token of them,
encrypted and authenticated with the key of the page's sessions. So any hub process on the same database accepts it, no
backup has it, and a rotated key ends it. A logout is stored as a mark until the session's time is over.
"""

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final

from attrs import asdict, field, frozen
from cryptography.fernet import Fernet, InvalidToken

from dispatchd.hub.auth.sessions import page_key
from dispatchd.hub.config.login import RoleNames
from dispatchd.hub.domain.scopes import ADMIN, OPERATE, READ
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.tokens import TokenStore
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Json

_SESSION: Final = "session of a person, form 1"
"""Purpose of what is sealed as a session; another form has another number, so that no release reads one of another."""

_BEGUN: Final = "begun login, form 1"
"""Purpose of what is sealed while a login is under way."""

_MOST_NAMES: Final = 1000
"""Largest size of a person's names in a session (bytes): browsers drop a cookie of more than 4096 without a word."""

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)

_ENDED: Final = "session ended "
"""Prefix of the mark of a session that was logged out."""

_USED: Final = "login used "
"""Prefix of the mark of a login that has come back; its state follows."""


class Role(StrEnum):
    """Role of a person, by configuration."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def scopes(self) -> str:
        """Scopes that the role includes, as those of a token."""
        return _SCOPES[self]


_SCOPES: Final[Mapping[Role, str]] = {
    Role.VIEWER: READ,
    Role.OPERATOR: f"{READ} {OPERATE}",
    Role.ADMIN: f"{READ} {OPERATE} {ADMIN}",
}


def role_of(roles: RoleNames, names: tuple[str, ...]) -> Role | None:
    """Return the highest role that one of a person's names has, or None."""
    mine = {_key(name) for name in names}
    for role, listed in (
        (Role.ADMIN, roles.admins),
        (Role.OPERATOR, roles.operators),
        (Role.VIEWER, roles.viewers),
    ):
        if not mine.isdisjoint(map(_key, listed)):
            return role
    return None


def configured(roles: RoleNames, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of a person's names that have a role, the highest first, as far as they fit a cookie."""
    by_key = {_key(name): name for name in names}
    listed = dict.fromkeys(map(_key, (*roles.admins, *roles.operators, *roles.viewers)))
    found, size = [], 0
    for key in filter(by_key.__contains__, listed):
        size += len(key.encode(errors="surrogatepass"))
        if size <= _MOST_NAMES:
            found.append(by_key[key])
    return tuple(found)


def _key(name: str) -> str:
    """Return the form of a name in which equal ones are the same: for a provider two subjects or groups may differ in case.

    Only ASCII letters have another case: a KELVIN SIGN isn't a k.
    """
    if name.startswith(("sub:", "group:")):
        return name
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


@frozen(kw_only=True)
class Person:
    """Person as the service has named them."""

    way: str
    """Way in which they have logged in: `github` or `oidc`."""
    subject: str
    """Id at the service, which nobody else gets."""
    name: str
    """Name for people; they may change it at the service."""
    names: tuple[str, ...] = ()
    """Names that roles are given to."""
    token: str = field(default="", repr=False)
    """Token with which GitHub is asked what they may read."""
    lasts_s: float
    """Longest lifetime of the session (seconds)."""

    @property
    def signature(self) -> str:
        """Name and id, for the audit list."""
        return f"{self.name} ({self.way}:{self.subject})"


@frozen(kw_only=True)
class Session:
    """Session of a person."""

    id: str
    person: Person
    expires_at: float


@frozen(kw_only=True)
class Begun:
    """Login under way in one browser."""

    way: str
    state: str
    nonce: str
    verifier: str = field(repr=False)
    next_path: str
    until: float
    """Time after which it is too late to come back (seconds since the epoch)."""


@frozen
class PersonSessions:
    """Makes and reads the cookies of people and of logins under way.

    Calls block. Each raises StorageBusy if the database can't be used now.
    """

    _tokens: TokenStore
    _marks: MarkStore

    def begin(self, person: Person, *, now: float) -> str:
        """Return the value of a new session."""
        document = {
            "id": token_urlsafe(12),
            "person": asdict(person),
            "expires_at": now + person.lasts_s,
        }
        return self._sealed(_SESSION, document)

    def read(self, value: str, *, now: float) -> Session | None:
        """Return a session, or None if it isn't valid (any more)."""
        document = self._opened(_SESSION, value)
        if document is None:
            return None
        session = _converter.structure(document, Session)
        if now >= session.expires_at or self._marks.get(_ENDED + session.id):
            return None
        return session

    def end(self, value: str, *, now: float) -> None:
        """Invalidate a session, even for those who have kept its cookie."""
        session = self.read(value, now=now)
        if session is not None:
            self._marks.put_until(_ENDED, session.id, session.expires_at, now=now)

    def keep(self, begun: Begun) -> str:
        """Return the value of the cookie of a login under way."""
        return self._sealed(_BEGUN, asdict(begun))

    def come_back(
        self, value: str, way: str, state: str, *, now: float
    ) -> Begun | None:
        """Return the login under way to which a browser comes back; None if it isn't this browser's, is too old or was used."""
        document = self._opened(_BEGUN, value)
        if document is None:
            return None
        begun = _converter.structure(document, Begun)
        is_it = begun.way == way and hmac.compare_digest(
            begun.state.encode(), state.encode(errors="replace")
        )
        if not is_it or now >= begun.until:
            return None
        is_first = self._marks.put_until(_USED, begun.state, begun.until, now=now)
        return begun if is_first else None

    def _sealed(self, purpose: str, document: Mapping[str, object]) -> str:
        # Without escapes, which are up to six times as long; a text from elsewhere may have half a surrogate pair.
        text = json.dumps(document, ensure_ascii=False)
        data = text.encode(errors="surrogatepass")
        return self._fernet(purpose).encrypt(data).decode()

    def _opened(self, purpose: str, value: str) -> dict[str, Json] | None:
        try:
            text = self._fernet(purpose).decrypt(value.encode(errors="replace"))
        except InvalidToken:
            return None
        document: dict[str, Json] = json.loads(text)
        return document

    def _fernet(self, purpose: str) -> Fernet:
        # Read each time, so that a rotated key is used at once in each hub process.
        key = page_key(self._tokens).encode()
        return Fernet(
            urlsafe_b64encode(hmac.new(key, purpose.encode(), sha256).digest())
        )
