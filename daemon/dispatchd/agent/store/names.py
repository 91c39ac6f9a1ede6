"""Job and run ids <-> file names, without loss, collision or escape from the folder."""

from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote

_LONGEST: Final = 200
"""Longest encoded id that is used as it is (bytes): a Linux file name has 255, and ours carry affixes."""

_HASHED: Final = "%sha256-"


def file_name(identifier: str) -> str:
    """Return the file name for an id: percent-encoded, or hashed if the encoded one is too long.

    A hashed name starts with `%sha256-`, which percent-encoding never produces. A leading dot is
    encoded as well, so that no id makes a hidden file or means a parent folder.
    """
    encoded = quote(identifier, safe="", errors="surrogatepass")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) <= _LONGEST:
        return encoded
    return _HASHED + sha256(identifier.encode(errors="surrogatepass")).hexdigest()


def identifier(name: str) -> str | None:
    """Return the id that a file name stands for, or None for a hashed one."""
    return None if name.startswith(_HASHED) else unquote(name, errors="surrogatepass")
