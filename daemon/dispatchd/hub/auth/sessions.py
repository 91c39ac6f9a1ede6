"""Browser sessions: a signed cookie, valid for as long as the token behind it.

A running session isn't stored, so any hub process on the same database accepts it, and a restart ends none. It ends
with its time, with its token, with the key that signed it, or by a logout. A logout is stored as a mark until the
session's time is over.
"""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final, Self

from attrs import frozen

from dispatchd.hub.domain.model import Token
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.schema import PAGE_KEY
from dispatchd.hub.storage.tokens import TokenStore

LIFE_S: Final = 12 * 3600
"""Lifetime of a session (seconds)."""

INVITATION_S: Final = 600
"""Lifetime of an invitation (seconds)."""

_USED: Final = "invitation used "
"""Prefix of the mark of an invitation that was used; its hash follows."""

_ENDED: Final = "session ended "
"""Prefix of the mark of a session that was logged out; its hash follows."""


@frozen
class Sessions:
    """Makes and reads the values of the cookie.

    Calls block. Each raises StorageBusy if the database can't be used now.
    """

    _tokens: TokenStore
    _marks: MarkStore

    @classmethod
    def open(cls, tokens: TokenStore, marks: MarkStore) -> Self:
        """Return the sessions of a database; make the key that signs them if there is none yet."""
        tokens.secret(PAGE_KEY, _new_key)
        return cls(tokens, marks)

    def begin(self, token: Token, *, now: float) -> str:
        """Return the value of a new session."""
        return self._signed("session", token, now + LIFE_S)

    def invite(self, token: Token, *, now: float) -> str:
        """Return an invitation, with which one browser begins a session without knowing the token."""
        return self._signed("invitation", token, now + INVITATION_S)

    def accept(self, invitation: str, *, now: float) -> Token | None:
        """Return the token behind an invitation, which ends by that; None if it isn't valid (any more)."""
        read = self._read(invitation, "invitation")
        if read is None:
            return None
        name, expires_at = read
        used = _hash_of(invitation)
        if now >= expires_at or not self._marks.put_until(
            _USED, used, expires_at, now=now
        ):
            return None
        return self._tokens.named(name)

    def token(self, value: str, *, now: float) -> Token | None:
        """Return the token behind a session, or None if the session isn't valid (any more)."""
        session = self._read(value)
        if session is None:
            return None
        name, expires_at = session
        if now >= expires_at or self._marks.get(_ENDED + _hash_of(value)):
            return None
        return self._tokens.named(name)

    def end(self, value: str, *, now: float) -> None:
        """Invalidate a session, even for those who have kept its cookie."""
        session = self._read(value)
        if session is not None:
            self._marks.put_until(_ENDED, _hash_of(value), session[1], now=now)

    def rotate_key(self) -> None:
        """Replace the key that signs sessions, which ends all of them."""
        self._tokens.replace_secret(PAGE_KEY, _new_key())

    def form_token(self, value: str) -> str:
        """Return the token that a form needs as proof that it comes from a page of this session."""
        return self._signature("form", value)

    def is_form_token(self, value: str, given: str) -> bool:
        """Return whether a form has the token of its session. The comparison takes constant time."""
        return bool(value) and _same(given, self.form_token(value))

    def _signed(self, purpose: str, token: Token, until: float) -> str:
        # Random, so that no two logins have the same form token.
        body = json.dumps([token.name, until, token_urlsafe(9)])
        text = urlsafe_b64encode(body.encode()).decode()
        return f"{text}.{self._signature(purpose, text)}"

    def _read(self, value: str, purpose: str = "session") -> tuple[str, float] | None:
        """Return the token's name and the end of what the hub has signed for a purpose, or None."""
        text, _, signature = value.partition(".")
        if not _same(signature, self._signature(purpose, text)):
            return None
        name, expires_at, _ = json.loads(urlsafe_b64decode(text))
        return str(name), float(expires_at)

    def _signature(self, purpose: str, text: str) -> str:
        # Read each time, so that a rotated key is used at once in each hub process.
        key = page_key(self._tokens).encode()
        said = f"{purpose}\n{text}".encode(errors="replace")
        return hmac.new(key, said, sha256).hexdigest()


def page_key(tokens: TokenStore) -> str:
    """Return the key of the page's sessions; make it the first time. Blocks."""
    return tokens.secret(PAGE_KEY, _new_key)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _hash_of(value: str) -> str:
    # Only of the signed part: it is the same session, however its signature is written.
    return sha256(value.partition(".")[0].encode(errors="replace")).hexdigest()


def _new_key() -> str:
    return token_urlsafe(32)
