"""Chunks of logs and artifacts on the wire: base64 of gzip, with the length and the hash of the bytes."""

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from dispatchd.errors import ContractViolation
from dispatchd.protocol.job import Json

_LEVEL: Final = 6
"""Level of gzip: more takes several times as long and saves few percent of a log."""

_GZIP: Final = 16 + zlib.MAX_WBITS
"""Tells zlib that a gzip header is in front."""


def packed(data: bytes, level: int = _LEVEL) -> dict[str, Json]:
    """Return the fields of a chunk's bytes."""
    compressed = gzip.compress(data, level, mtime=0) if data else b""
    return {
        "length": len(data),
        "sha256": sha256(data).hexdigest(),
        "data": base64.b64encode(compressed).decode(),
    }


def unpacked(fields: Mapping[str, Json], contract: str) -> bytes:
    """Return the bytes of a chunk in a body that keeps its schema.

    Raises:
        ContractViolation: They aren't what their length and their hash say.
    """
    length = int(str(fields["length"]))
    data = _decompressed(str(fields["data"]), length, contract) if length else b""
    if sha256(data).hexdigest() != fields["sha256"]:
        rule = "must be the SHA-256 of the chunk's bytes"
        raise ContractViolation(contract=contract, path="$.sha256", rule=rule)
    return data


def _decompressed(text: str, length: int, contract: str) -> bytes:
    """Return the bytes in base64 of gzip; never more than one beyond `length`, whatever the text would unpack to.

    Raises:
        ContractViolation: It isn't gzip, or not of this length.
    """
    unpack = zlib.decompressobj(_GZIP)
    try:
        compressed = base64.b64decode(text, validate=True)
        data = unpack.decompress(compressed, length + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        rule = "must be base64 of gzip"
        raise ContractViolation(contract=contract, path="$.data", rule=rule) from error
    if len(data) != length:
        rule = "must be the number of the chunk's bytes"
        raise ContractViolation(contract=contract, path="$.length", rule=rule)
    return data
