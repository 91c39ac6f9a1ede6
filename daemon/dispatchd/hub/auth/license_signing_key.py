"""Key that signs license tokens: stored in the database, so that a backup has it, until it is rotated."""

from typing import Final

from dispatchd.hub.storage.tokens import TokenStore
from dispatchd.network.signing_key import new_key, public_key_of

_NAME: Final = "license-signing-key"


def signing_key(tokens: TokenStore) -> str:
    """Return the private key (PEM, PKCS #8); make it the first time. Blocks."""
    return tokens.secret(_NAME, new_key)


def rotate_signing_key(tokens: TokenStore) -> str:
    """Replace the private key, and return the new public one (PEM). Blocks.

    A machine that has not pinned the new key yet keeps its license until that expires.
    """
    tokens.replace_secret(_NAME, new_key())
    return public_key(tokens)


def public_key(tokens: TokenStore) -> str:
    """Return the public key (PEM) that machines pin as `license.public_keys`. Blocks."""
    return public_key_of(signing_key(tokens))
