"""Key that signs license tokens: stored in the database, so that a backup has it, until it is rotated."""

from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dispatchd.hub.storage.tokens import TokenStore

_NAME: Final = "license-signing-key"


def signing_key(tokens: TokenStore) -> str:
    """Return the private key (PEM, PKCS #8); make it the first time. Blocks."""
    return tokens.secret(_NAME, _new_key)


def rotate_signing_key(tokens: TokenStore) -> str:
    """Replace the private key, and return the new public one (PEM). Blocks.

    A machine that has not pinned the new key yet keeps its license until that expires.
    """
    tokens.replace_secret(_NAME, _new_key())
    return public_key(tokens)


def public_key(tokens: TokenStore) -> str:
    """Return the public key (PEM) that machines pin as `license.public_keys`. Blocks.

    Raises:
        TypeError: The database has another kind of key.
    """
    key = load_pem_private_key(signing_key(tokens).encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{_NAME} is no Ed25519 key"
        raise TypeError(message)
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key (PEM), for people to compare: SHA-256 of its DER form, in hex.

    The same comes from `openssl pkey -pubin -in FILE -outform DER | sha256sum`.
    """
    der = load_pem_public_key(public.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(der).hexdigest()


def _new_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
