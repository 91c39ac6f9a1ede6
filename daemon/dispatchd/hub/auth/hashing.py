"""Secrets that the hub makes. It stores only their hashes.

Each has 192 random bits, so that it can't be found from a plain SHA-256. A slow hash would only help with short
secrets that people choose.
"""

from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe


def new_secret(kind: str) -> str:
    """Return a new secret whose prefix names its kind, so that scanners and people recognise it."""
    return f"dhub_{kind}_{token_urlsafe(24)}"


def hashed(secret: object) -> str:
    """Return the hash of a secret, for storage."""
    return sha256(str(secret or "").encode(errors="surrogatepass")).hexdigest()


def matches(secret: object, stored_hash: str) -> bool:
    """Return whether a secret has this hash. The comparison takes constant time."""
    return bool(stored_hash) and compare_digest(hashed(secret), stored_hash)
