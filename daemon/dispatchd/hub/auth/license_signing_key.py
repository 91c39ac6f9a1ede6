"""Key that signs license tokens: stored in the database, so that a backup has it, until it is rotated.

The library of cryptography is slow to load, and a hub seldom needs it: the functions import it themselves.
"""

from hashlib import sha256
from typing import Final

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
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    key = serialization.load_pem_private_key(
        signing_key(tokens).encode(), password=None
    )
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        message = f"{_NAME} is no Ed25519 key"
        raise TypeError(message)
    return (
        key.public_key()
        .public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        .decode()
    )


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key (PEM), for people to compare: SHA-256 of its DER form, in hex.

    The same comes from `openssl pkey -pubin -in FILE -outform DER | sha256sum`.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    der = serialization.load_pem_public_key(public.encode()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(der).hexdigest()


def _new_key() -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
