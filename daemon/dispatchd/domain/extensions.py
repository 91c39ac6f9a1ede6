"""Extensions of the first protocol, by their names on the wire (contracts/README.md, extensions)."""

from collections.abc import Mapping
from typing import Final

CLAIM: Final = "claim"
LEASE: Final = "lease"
HEARTBEAT: Final = "heartbeat"
RELEASE: Final = "release"
TOKEN: Final = "token"  # noqa: S105  # a name
REPORT: Final = "report"
CAPABILITIES: Final = "capabilities"
MARKED: Final = "contract-header"
"""An endpoint that lists it has the header of the contract in each of its answers."""

OF_MACHINES: Final = (CLAIM, LEASE, HEARTBEAT, RELEASE, TOKEN, REPORT)
"""Extensions that this release names in its pulls."""

HEADER: Final = "Dispatch-Contract"
"""The header by which an answer shows that the endpoint itself has given it."""

VERSION: Final = "1"
"""Its value: the version of the contract."""

CALL_HEADER: Final = "Dispatch-Call"
"""The header by which an answer shows which call it is for: the endpoint repeats what the call had."""


def is_marked(headers: Mapping[str, str]) -> bool:
    """Return whether an answer has the header of the contract; names of `headers` are in lower case."""
    return headers.get(HEADER.lower(), "").strip() == VERSION
