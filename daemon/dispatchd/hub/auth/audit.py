"""Audit log: a line for each change that only an owner may make, with the token's name, the address and the status."""

from typing import Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BY: Final = "dispatchd.owner"
"""Key of an ASGI scope for the name of the token that makes a change."""


def address_of(request: Request) -> str:
    """Return the address of a request's client, also behind a proxy on this machine."""
    return request.client.host if request.client is not None else ""


def note_owner(request: Request, name: str) -> None:
    """Mark a request as a change that only an owner may make, with the token's name."""
    request.scope[_BY] = name


def auditing(app: ASGIApp) -> ASGIApp:
    """Return an application that logs each owner's change, with the status of its answer."""

    async def audited(scope: Scope, receive: Receive, send: Send) -> None:
        statuses: list[int] = []

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            if _BY in scope:
                # A key named `token` would be redacted as a secret.
                structlog.get_logger().info(
                    "owner_call",
                    by=scope[_BY],
                    method=scope["method"],
                    path=scope["path"],
                    # 0 if no answer was sent.
                    status=statuses[0] if statuses else 0,
                    address=address_of(Request(scope)),
                )

    return audited
