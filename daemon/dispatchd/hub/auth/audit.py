"""A log line for each change that only an owner may make: by whom, from where, and how it was answered."""

from typing import Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BY: Final = "dispatchd.owner"
"""Where an ASGI scope has the name of the token by which a change is made."""


def address_of(request: Request) -> str:
    """Return the address from which a request comes; that of the client behind a proxy on this machine."""
    return request.client.host if request.client is not None else ""


def note_owner(request: Request, name: str) -> None:
    """Note that a request makes a change that only an owner may make, by a token's name."""
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
                # A key called `token` would be taken for a secret, and redacted.
                structlog.get_logger().info(
                    "owner_call",
                    by=scope[_BY],
                    method=scope["method"],
                    path=scope["path"],
                    # 0 for a change that nobody was answered.
                    status=statuses[0] if statuses else 0,
                    address=address_of(Request(scope)),
                )

    return audited
