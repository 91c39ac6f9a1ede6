"""What a token may be for."""

from typing import Final

from dispatchd.hub.model import Token

SUBMIT: Final = "submit"
READ: Final = "read"
ADMIN: Final = "admin"
SCOPES: Final = (SUBMIT, READ, ADMIN)
"""What a token may be for; `admin` includes the others."""


def allows(token: Token, scope: str) -> bool:
    """Return whether a token is for something."""
    return not {scope, ADMIN}.isdisjoint(token.scopes.split())
