"""Who is logged in with a browser: a signed cookie, which counts as long as the token behind it does.

Nothing is kept of a session, so that any hub process on the same database knows it, and a restart ends none. It
ends with its time, with its token, or when the browser forgets the cookie.
"""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final, Self

from attrs import frozen

from dispatchd.hub.model import Token
from dispatchd.hub.token_store import TokenStore

LIFE_S: Final = 12 * 3600
"""How long a session lasts (seconds)."""

_KEY: Final = "page-session-key"


@frozen
class Sessions:
    """Makes and reads the values of the cookie. Calls block; each fails with StorageBusy if the database can't be used."""

    _tokens: TokenStore
    _key: bytes

    @classmethod
    def open(cls, tokens: TokenStore) -> Self:
        """Return the sessions of a database, making the key that signs them where there is none yet."""
        key = tokens.secret(_KEY, lambda: token_urlsafe(32))
        return cls(tokens, key.encode())

    def begin(self, token: Token, *, now: float) -> str:
        """Return the value of a new session."""
        # Random, so that no two logins have the same form token.
        body = json.dumps([token.name, now + LIFE_S, token_urlsafe(9)])
        text = urlsafe_b64encode(body.encode()).decode()
        return f"{text}.{self._signature('session', text)}"

    def token(self, value: str, *, now: float) -> Token | None:
        """Return the token behind a session, or None if the session doesn't count (any more)."""
        text, _, signature = value.partition(".")
        if not _same(signature, self._signature("session", text)):
            return None
        name, expires_at, _ = json.loads(urlsafe_b64decode(text))
        return self._tokens.named(name) if now < expires_at else None

    def form_token(self, value: str) -> str:
        """Return what a form has to bring along to count as sent from a page of this session."""
        return self._signature("form", value)

    def is_form_token(self, value: str, given: str) -> bool:
        """Return whether a form has brought along what it has to, in a time that doesn't tell how near it is."""
        return bool(value) and _same(given, self.form_token(value))

    def _signature(self, purpose: str, text: str) -> str:
        said = f"{purpose}\n{text}".encode(errors="replace")
        return hmac.new(self._key, said, sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())
