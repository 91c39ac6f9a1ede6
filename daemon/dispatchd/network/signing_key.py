"""Keys that sign licenses (Ed25519), and the signing: what hubs and vendors do alike.

The library of cryptography is slow to load, and is seldom needed: the functions import it themselves.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from dispatchd.protocol.job import Json

_ALGORITHM: Final = "EdDSA"


def new_key() -> str:
    """Return a new private key (PEM, PKCS #8)."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # see above
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_key_of(private: str) -> str:
    """Return the public key (PEM) of a private one (PEM), which machines pin as `license.public_keys`.

    Raises:
        ValueError: It is no private Ed25519 key without a passphrase. The message doesn't quote it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(private.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        message = "it is no private Ed25519 key (PEM) without a passphrase"
        # Callers catch one type.
        raise ValueError(message) from None  # noqa: TRY004
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


def signed(claims: Mapping[str, Json], private: str) -> str:
    """Return the token (JWT, EdDSA) of claims."""
    import jwt  # noqa: PLC0415  # see above

    return jwt.encode(dict(claims), private, algorithm=_ALGORITHM)
