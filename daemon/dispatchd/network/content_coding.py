"""Content codings of answers (RFC 9110, 8.4): none is requested, and none is unpacked.

A body of a few hundred bytes can unpack to gigabytes, so a limit on the bytes received would come too late.
"""

from collections.abc import Mapping
from typing import Final

ACCEPT_IDENTITY: Final[Mapping[str, str]] = {"Accept-Encoding": "identity"}
"""Request header that asks for an answer without a content coding."""


def coding_problem(content_encoding: str) -> str:
    """Return the reason why an answer can't be read; empty if its body has no content coding.

    Args:
        content_encoding: The header's value; several headers are joined by commas.
    """
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    foreign = [coding for coding in codings if coding not in {"", "identity"}]
    if not foreign:
        return ""
    # Text of a stranger: its beginning is enough to find who wrote it.
    quoted = ", ".join(foreign)[:60]
    return f"the answer has Content-Encoding {quoted!r}, though only identity was asked for; it isn't unpacked"
