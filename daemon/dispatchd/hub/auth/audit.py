"""Audit: a line and a record for each change that only an owner or an operator may make: who, what, when, from where.

The record is durable before the answer is sent.
"""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode

import structlog
from attrs import frozen
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatchd.protocol.json_text import whole_characters

_BY: Final = "dispatchd.owner"
"""Key of an ASGI scope for the name of the token or person that makes a change."""

_LONGEST_PATH: Final = 1000
"""Longest path in a record (characters)."""


@frozen(kw_only=True)
class Change:
    """Change that somebody has made."""

    who: str
    """Name of their token; or their name, and in brackets their way in and their id."""
    method: str
    path: str
    status: int
    """Status of the answer; 0 if none was sent."""
    address: str


Record = Callable[[Change], Awaitable[None]]
"""Function that stores a change."""


async def nowhere(_change: Change) -> None:
    """Store nothing."""


def address_of(request: Request) -> str:
    """Return the address of a request's client, also behind a proxy on this machine."""
    return request.client.host if request.client is not None else ""


def note_owner(request: Request, name: str) -> None:
    """Mark a request as a change that only an owner or an operator may make, with the token's or the person's name."""
    request.scope[_BY] = name


def owner_of(request: Request) -> str:
    """Return the name under which a request was marked (`note_owner`); empty for none."""
    name: str = request.scope.get(_BY, "")
    return name


def auditing(app: ASGIApp, record: Record = nowhere) -> ASGIApp:
    """Return an application that logs and records each such change, with the status of its answer."""

    async def audited(scope: Scope, receive: Receive, send: Send) -> None:
        statuses: list[int] = []

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                if _BY in scope:
                    await record(_change(scope, message["status"]))
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            if _BY in scope:
                change = _change(scope, statuses[0] if statuses else 0)
                # A key named `token` would be redacted as a secret.
                structlog.get_logger().info(
                    "owner_call",
                    by=change.who,
                    method=change.method,
                    path=change.path,
                    status=change.status,
                    address=change.address,
                )

    return audited


def _change(scope: Scope, status: int) -> Change:
    request = Request(scope)
    path = scope["path"]
    job_id = request.query_params.get("id")
    if job_id is not None and not scope.get("path_params"):
        # The page also takes the id of a job so. Nothing else of a query is recorded: it might be a secret.
        path += f"?{urlencode({'id': job_id}, errors='surrogatepass')}"
    return Change(
        who=whole_characters(scope[_BY]),
        method=scope["method"],
        path=whole_characters(path[:_LONGEST_PATH]),
        status=status,
        address=address_of(request),
    )
