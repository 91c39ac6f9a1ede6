"""From a reply to a value or to a RemoteError: the only place that decides the meaning and the sender of an answer.

A proxy, a gateway or a login page answers with any status. So an answer counts as the endpoint's only if it has
the required `Proof`. Any other answer is a fault on the way, reported as such, and the call is repeated.

Deliberately absent: any answer after which the daemon gives up. Whatever an endpoint or a proxy answers,
the daemon stays up and asks again.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.errors import (
    Conflict,
    Forbidden,
    Gone,
    ProtocolError,
    RateLimited,
    RemoteError,
    Revoked,
    Skewed,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from dispatchd.network.http_headers import http_date, seconds
from dispatchd.protocol.extensions import HEADER, is_marked
from dispatchd.protocol.job import Json
from dispatchd.redaction.quoted import quoted

MAX_BYTES: Final = 1024 * 1024
"""Largest reply that is read (bytes); contracts/README.md, Limits."""

MAX_JOB_BYTES: Final = 32 * 1024 * 1024
"""Largest reply to a pull (bytes); likewise."""

_UNPROVEN_S: Final = 50.0
"""Longest wait that an unproven answer can ask for (seconds): the endpoint may be back sooner."""

_QUOTED: Final = 200
"""Longest part of a reply's own message that an error repeats (characters)."""

_ANY_CALL: Final[Mapping[int, type[RemoteError]]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: Unauthorized,
        HTTPStatus.FORBIDDEN: Forbidden,
        HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    }
)

_JOB_CALL: Final[Mapping[int, type[RemoteError]]] = MappingProxyType(
    {HTTPStatus.NOT_FOUND: Gone, HTTPStatus.GONE: Gone, HTTPStatus.CONFLICT: Conflict}
)

_MACHINE_CALL: Final[Mapping[int, type[RemoteError]]] = MappingProxyType(
    {HTTPStatus.GONE: Revoked}
)


_OF_ANYBODY: Final = (
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS,
)
"""Statuses with the same meaning whoever answers, like those from 500 on."""

CLOSES_A_JOB: Final = frozenset(_JOB_CALL)
"""Statuses with which an endpoint says that this machine doesn't hold a job any more."""


class Proof(Enum):
    """Proof that an answer is the endpoint's own."""

    NONE = "none"
    """It has been the only answer for long enough (`agent/endpoint/doubted_refusals.py`)."""
    BODY = "body"
    """A refusal has a JSON object with a `message`."""
    HEADER = "header"
    """The same, and each answer has the header of the contract."""


@frozen(kw_only=True)
class Reply:
    """Reply to a call: `headers` with lower-case names, `body` as bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_proven(reply: Reply, proof: Proof) -> bool:
    """Return whether an answer can only be the endpoint's own."""
    if proof is Proof.HEADER and not is_marked(reply.headers):
        return False
    return proof is Proof.NONE or _is_success(reply) or _message(reply) is not None


def refuse_errors(
    call: str,
    reply: Reply,
    *,
    about_a_job: bool,
    now: datetime,
    skew: str = "",
    proof: Proof = Proof.BODY,
) -> None:
    """Return if the reply is a success, else raise.

    Args:
        call: The call's name, for the error.
        reply: The reply.
        about_a_job: True if 404, 409 and 410 are about a job rather than the machine.
        proof: Proof that the reply is the endpoint's own.
        now: The wall-clock time, for a Retry-After that names a date.
        skew: Difference between this machine's clock and the endpoint's, in words; empty for none.

    Raises:
        RemoteError: The leaf for the status.
    """
    proven = is_proven(reply, proof)
    # A success of a pull or a license call proves itself, by its body or by changing nothing.
    if _is_success(reply) and (proven or not about_a_job):
        return
    table = {**_ANY_CALL, **(_JOB_CALL if about_a_job else _MACHINE_CALL)}
    fallback = (
        Unavailable
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        else ProtocolError
    )
    kind, reason = table.get(reply.status, fallback), _reason(reply)
    anybodys = reply.status in _OF_ANYBODY or fallback is Unavailable
    if not proven and not anybodys:
        kind, reason = ProtocolError, f"{reason}; {_whose(reply)}"
    if kind is Unauthorized and skew:
        # Credentials have times in them: with a wrong clock valid ones look invalid.
        kind, reason = Skewed, f"{reason}; {skew}, which may be why: set it"
    asked_s = retry_after_s(reply.headers, now)
    if asked_s is not None and not proven:
        asked_s = min(asked_s, _UNPROVEN_S)
    raise kind(
        call=call,
        reason=reason,
        retry_after_s=asked_s,
        status=reply.status,
    )


def json_object(call: str, reply: Reply) -> dict[str, Json]:
    """Return the JSON object in a successful reply's body.

    Raises:
        ProtocolError: The body is something else, such as a proxy's page.
    """
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(call=call, reason=not_json(reply)) from error
    if not isinstance(value, dict):
        raise ProtocolError(call=call, reason="the reply is JSON, but not an object")
    return value


def not_json(reply: Reply) -> str:
    """Return the description of a successful reply whose body isn't the contract's JSON."""
    kind = reply.headers.get("content-type", "no content type").split(";")[0]
    if not reply.body:
        return f"status {reply.status} with an empty body where the contract wants JSON"
    page = " (a proxy's or a login page?)" if "html" in kind else ""
    return f"status {reply.status} with {kind}{page} where the contract wants JSON"


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), or None.

    A date is measured from the reply's own Date if it has one, so that a wrong clock here does no harm.
    """
    value = headers.get("retry-after", "")
    asked_s = seconds(value)
    if asked_s is not None:
        return asked_s
    until, since = http_date(value), http_date(headers.get("date", "")) or now
    return None if until is None else max(0.0, (until - since).total_seconds())


def hold_applied(headers: Mapping[str, str]) -> bool:
    """Return whether the endpoint says that it honoured `Prefer: wait` (RFC 7240, 3)."""
    applied = headers.get("preference-applied", "")
    return any(part.strip().lower().startswith("wait") for part in applied.split(","))


def _is_success(reply: Reply) -> bool:
    return HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES


def _whose(reply: Reply) -> str:
    """Return the reason why an answer doesn't count as the endpoint's."""
    page = "(a proxy's or a login page?)"
    if _message(reply) is not None or (_is_success(reply) and not _is_page(reply)):
        return f"it lacks the endpoint's header {HEADER} {page}"
    kind = reply.headers.get("content-type", "no content type").split(";")[0]
    body = kind if reply.body else "an empty body"
    return f"{body} where the contract wants JSON with a message {page}"


def _is_page(reply: Reply) -> bool:
    return "html" in reply.headers.get("content-type", "")


def _reason(reply: Reply) -> str:
    try:
        phrase = f" {HTTPStatus(reply.status).phrase}"
    except ValueError:
        phrase = ""
    location = reply.headers.get("location", "")
    target = (
        f", a redirect to {quoted(_without_query(location), _QUOTED)}, which is not followed"
        if location
        else ""
    )
    message = _message(reply)
    return f"status {reply.status}{phrase}{target}" + (
        f": {message}" if message else ""
    )


def _message(reply: Reply) -> str | None:
    """Return the contract's `message` of a refusal, as one short line; None if it has none."""
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    message = document.get("message") if isinstance(document, dict) else None
    if not isinstance(message, str):
        return None
    line = quoted(message, _QUOTED)
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _without_query(location: str) -> str:
    """Return an address without what may be a credential, as in a redirect to a login."""
    return re.split(r"[?#]", location, maxsplit=1)[0]
