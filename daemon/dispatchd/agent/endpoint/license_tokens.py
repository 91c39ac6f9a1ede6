"""Checking a license token's signature, with the keys that the machine's owner has pinned.

Only EdDSA, only these keys: the keys and algorithms in the token's own header decide nothing
(RFC 8725, 3.1). Several keys may be pinned, so that they can be rotated.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from dispatchd.errors import LicenseInvalid
from dispatchd.protocol.license import Claims, claims_from

LARGEST_TOKEN: Final = 16 * 1024
"""Largest token that is read (characters); ours have a few hundred."""

_ALGORITHM: Final = "EdDSA"

PublicKey: TypeAlias = Any
"""An Ed25519PublicKey of cryptography, which isn't loaded before it is needed."""


def load_keys(pinned: Iterable[str], folder: Path) -> list[PublicKey]:
    """Return the public keys (Ed25519) that the configuration pins.

    Args:
        pinned: For each key its PEM, its JWK (RFC 8037), or the path of a file with one of them.
        folder: The folder of the configuration file, to which paths are relative.

    Raises:
        ValueError: One of them isn't such a key; the error names the entry.
    """
    return [_key(text, number, folder) for number, text in enumerate(pinned, start=1)]


def verify(token: str, keys: Iterable[PublicKey]) -> Claims:
    """Return the claims of a token, if one of the keys has signed it. Its times are not checked.

    Raises:
        LicenseInvalid: It isn't a token, none of the keys has signed it, or a claim is missing.
    """
    # cryptography takes 10 MiB of memory; a daemon without a license doesn't need it.
    import jwt  # noqa: PLC0415  # see above

    if len(token) > LARGEST_TOKEN:
        raise LicenseInvalid(reason=f"it is longer than {LARGEST_TOKEN} characters")
    options: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud")}
    last: Exception | None = None
    for key in keys:
        try:
            document = jwt.decode(token, key, algorithms=[_ALGORITHM], options=options)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            last = error
        else:
            return claims_from(document)
    reason = (
        "no public key is pinned (license.public_keys)"
        if last is None
        else _reason(last)
    )
    raise LicenseInvalid(reason=reason) from last


def _reason(error: Exception) -> str:
    import jwt  # noqa: PLC0415  # loaded already

    if isinstance(error, jwt.InvalidSignatureError):
        return "none of the pinned keys has signed it"
    if isinstance(error, jwt.InvalidAlgorithmError):
        return "it isn't signed with EdDSA"
    return "it isn't a signed token (JWT)"


def _key(text: str, number: int, folder: Path) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # as above
        Ed25519PublicKey,
    )

    content = text if text.lstrip().startswith(("-----", "{")) else _file(text, folder)
    try:
        key = _parsed(content)
    except (ValueError, TypeError, KeyError) as error:
        message = f"key {number} is neither PEM nor JWK"
        raise ValueError(message) from error
    if not isinstance(key, Ed25519PublicKey):
        message = f"key {number} isn't a public Ed25519 key"
        # The caller catches one type.
        raise ValueError(message)  # noqa: TRY004
    return key


def _parsed(content: str) -> PublicKey:
    if content.lstrip().startswith("{"):
        from jwt import PyJWK  # noqa: PLC0415  # as above
        from jwt.exceptions import PyJWTError  # noqa: PLC0415

        try:
            return PyJWK.from_dict(json.loads(content), _ALGORITHM).key
        except PyJWTError as error:
            raise ValueError(str(error)) from error
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # as above
        load_pem_public_key,
    )

    return load_pem_public_key(content.encode())


def _file(name: str, folder: Path) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        message = f"the file {folder / name} can't be read: {reason}"
        raise ValueError(message) from error
