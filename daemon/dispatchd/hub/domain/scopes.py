"""Scopes of tokens."""

from typing import Final

from dispatchd.hub.domain.model import Token

SUBMIT: Final = "submit"
READ: Final = "read"
ADMIN: Final = "admin"
OPERATE: Final = "operate"
"""Scope to run jobs again, to end them and to pause dispatch; that of a person's role, no token has it alone."""
SCOPES: Final = (SUBMIT, READ, ADMIN)
"""Scopes of tokens; `admin` includes the others."""


def allows(token: Token, scope: str) -> bool:
    """Return whether a token has a scope."""
    return not {scope, ADMIN}.isdisjoint(token.scopes.split())
