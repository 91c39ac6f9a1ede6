"""Content codings of answers (RFC 9110, 8.4): none is asked for, and none is unpacked.

A body of some hundred bytes can unpack to gigabytes, so a limit on what was received would come too late.
"""

from collections.abc import Mapping
from typing import Final

ASKED_FOR: Final[Mapping[str, str]] = {"Accept-Encoding": "identity"}
"""The header of a request whose answer is not to be encoded."""


def coding_problem(content_encoding: str) -> str:
    """Return why an answer isn't read, in words; nothing if its body is as it was sent.

    Args:
        content_encoding: The header's value; several headers are joined by commas.
    """
    codings = [each.strip().lower() for each in content_encoding.split(",")]
    foreign = [each for each in codings if each not in {"", "identity"}]
    if not foreign:
        return ""
    # Somebody else's text: its beginning is enough to find who wrote it.
    quoted = ", ".join(foreign)[:60]
    return f"the answer has Content-Encoding {quoted!r}, though only identity was asked for; it isn't unpacked"
