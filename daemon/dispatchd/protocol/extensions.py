"""Extensions of the first protocol, by their names on the wire (contracts/README.md, extensions)."""

from collections.abc import Mapping
from typing import Final

CLAIM: Final = "claim"
LEASE: Final = "lease"
HEARTBEAT: Final = "heartbeat"
RELEASE: Final = "release"
TOKEN: Final = "token"  # noqa: S105  # a name
REPORT: Final = "report"
LOG: Final = "log"
ARTIFACTS: Final = "artifacts"
RESOLVE: Final = "resolve"
CAPABILITIES: Final = "capabilities"
MARKED: Final = "contract-header"
"""Extension of an endpoint that puts the header of the contract into each of its answers."""

OF_MACHINES: Final = (
    *(CLAIM, LEASE, HEARTBEAT, RELEASE, TOKEN),
    *(REPORT, LOG, ARTIFACTS, RESOLVE),
)
"""Extensions that this release names in its pulls."""

HEADER: Final = "Dispatch-Contract"
"""Header that shows that the endpoint itself gave an answer."""

VERSION: Final = "1"
"""Its value: the version of the contract."""

CALL_HEADER: Final = "Dispatch-Call"
"""Header that shows which call an answer belongs to: the endpoint repeats the value of the call."""


def is_marked(headers: Mapping[str, str]) -> bool:
    """Return whether an answer has the header of the contract. Names in `headers` are in lower case."""
    return headers.get(HEADER.lower(), "").strip() == VERSION
