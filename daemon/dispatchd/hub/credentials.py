"""Secrets that the hub makes, and what it keeps of them: hashes.

Each has 192 bits of randomness, so that a plain SHA-256 of it can't be guessed back; a slow hash would only
help against short ones that people think up.
"""

from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe


def new_secret(kind: str) -> str:
    """Return a new secret that says what it is for, so that scanners and people recognise it."""
    return f"dhub_{kind}_{token_urlsafe(24)}"


def hashed(secret: object) -> str:
    """Return what is kept of a secret."""
    return sha256(str(secret or "").encode(errors="surrogatepass")).hexdigest()


def matches(secret: object, kept: str) -> bool:
    """Return whether a secret is the one of which this is kept, in a time that doesn't tell how near it is."""
    return bool(kept) and compare_digest(hashed(secret), kept)
