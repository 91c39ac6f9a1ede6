"""Id tokens (OpenID Connect Core 1.0, 2 and 3.1.3.7): a signature by one of the provider's keys, and claims for this login.

PyJWT reads and verifies the token. The algorithms are those with a public key alone, so that neither `none` nor a
secret that is made of a public key passes. The times are judged by the hub's clock.
"""

from collections.abc import Sequence
from typing import Any, Final

import jwt
from attrs import frozen

from dispatchd.errors import DispatchdError
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import whole_characters

_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Algorithms that are accepted: those with a public key."""

_LEEWAY_S: Final = 60.0
"""Difference of two clocks that does no harm (seconds)."""

_LARGEST_TIME: Final = 1e15
"""Time that is none any more (seconds since the epoch)."""

_REQUIRED: Final = ("iss", "sub", "aud", "exp", "iat", "nonce")

_LONGEST_SUBJECT: Final = 255
"""Longest subject (characters; OpenID Connect Core 1.0, 2)."""


class BadIdToken(DispatchdError):
    """Id token that proves nothing."""


@frozen(kw_only=True)
class Expected:
    """Claims that a token of this login has."""

    issuer: str
    client_id: str
    nonce: str
    now: float
    """Time (seconds since the epoch)."""


def claims_of(token: str, keys: Json, expected: Expected) -> dict[str, Any]:
    """Return the claims of an id token that is valid for a login.

    Args:
        token: The token.
        keys: The provider's keys (RFC 7517, 5).
        expected: The claims that it must have.

    Raises:
        BadIdToken: It isn't valid.
    """
    try:
        header = jwt.get_unverified_header(token)
        key = _key(keys, header)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(_ALGORITHMS),
            audience=expected.client_id,
            issuer=expected.issuer,
            options={
                "require": list(_REQUIRED),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, BadIdToken) as error:
        raise BadIdToken(_reason(error)) from error
    _check(claims, expected)
    return claims


def _key(keys: Json, header: dict[str, Any]) -> jwt.PyJWK:
    """Return the provider's key for a token.

    Raises:
        BadIdToken: There is none, or the algorithm isn't accepted.
    """
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS:
        message = "its algorithm isn't one with a public key"
        raise BadIdToken(message)
    listed = keys.get("keys") if isinstance(keys, dict) else None
    known = (
        [key for key in listed or () if isinstance(key, dict)]
        if isinstance(listed, list)
        else []
    )
    fits = [key for key in known if _fits(key, header, alone=len(known) == 1)]
    if not fits:
        message = "the provider has no key for it"
        raise BadIdToken(message)
    # With the algorithm of the token, which the key's type has to have: RSA isn't a secret for HMAC.
    return jwt.PyJWK(dict(fits[0]), algorithm=str(algorithm))


def _fits(key: dict[str, Json], header: dict[str, Any], *, alone: bool) -> bool:
    is_for_signatures = key.get("use", "sig") == "sig"
    has_algorithm = key.get("alg", header["alg"]) == header["alg"]
    kid = header.get("kid")
    is_named = key.get("kid") == kid if kid is not None else alone
    return is_for_signatures and has_algorithm and is_named


def _check(claims: dict[str, Any], expected: Expected) -> None:
    """Check the claims that PyJWT doesn't.

    Raises:
        BadIdToken: One isn't that of this login.
    """
    if claims["nonce"] != expected.nonce:
        message = "it is for another login"
        raise BadIdToken(message)
    audience = claims["aud"]
    is_shared = isinstance(audience, Sequence) and audience not in (
        expected.client_id,
        [expected.client_id],
    )
    if (
        claims.get("azp", None if is_shared else expected.client_id)
        != expected.client_id
    ):
        message = "it was issued to another client"
        raise BadIdToken(message)
    subject = claims["sub"]
    if not isinstance(subject, str) or not _is_subject(subject):
        message = "its subject isn't a text of up to 255 characters"
        raise BadIdToken(message)
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(map(_is_time, times)):
        message = "a time in it is no number"
        raise BadIdToken(message)
    expires_at, issued_at, valid_from = times
    if expected.now >= expires_at + _LEEWAY_S:
        message = "it has expired; or the hub's clock is wrong"
        raise BadIdToken(message)
    if max(issued_at, valid_from) > expected.now + _LEEWAY_S:
        message = "it is from the future; or the hub's clock is wrong"
        raise BadIdToken(message)


def _is_subject(text: str) -> bool:
    # With half a surrogate pair it is no text.
    is_text = whole_characters(text) == text
    return is_text and 0 < len(text) <= _LONGEST_SUBJECT


def _is_time(value: object) -> bool:
    # Compared, not converted: no float is as large as an int may be.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LARGEST_TIME


def _reason(error: Exception) -> str:
    # The kind alone: a message may quote the token.
    return (
        str(error)
        if isinstance(error, BadIdToken)
        else f"it isn't valid ({type(error).__name__})"
    )
