"""Identity of an attempt as JSON, as it is in a record."""

from datetime import UTC, datetime
from typing import Final

from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.job import Attempt
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Json

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)

_ANY: Final = datetime(2026, 1, 1, tzinfo=UTC)


def to_json(identity: Identity) -> Json:
    """Return an identity as JSON."""
    attempt = Attempt(number=1, started_at=_ANY, deadline_at=_ANY)
    document: Json = _converter.unstructure(attempt.identified(identity))
    return document


def from_json(document: Json) -> Identity:
    """Return the identity in a JSON document.

    Raises:
        ValueError: There is none.
    """
    identity = _converter.structure(document, Attempt).identity
    if identity is None:
        message = "no identity"
        raise ValueError(message)
    return identity
