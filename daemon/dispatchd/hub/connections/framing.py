"""Refusal of requests with ambiguous framing, in which two readers may see different bodies, before anything is read.

If a proxy goes by Content-Length, a hub behind it that goes by Transfer-Encoding would take the end of a body for
the next request (RFC 9112, 6.1: a server ought to handle both as an error and close the connection).
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LENGTH: Final = b"content-length"
_CODING: Final = b"transfer-encoding"


def framed(app: ASGIApp) -> ASGIApp:
    """Return an application that gets only requests with unambiguous framing."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        problem = _problem(scope.get("http_version", ""), scope.get("headers", ()))
        if not problem:
            await app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"message": problem},
            status_code=HTTPStatus.BAD_REQUEST,
            headers={"Connection": "close"},
        )
        await refusal(scope, receive, send)

    return checked


def _problem(version: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    names = [name for name, _ in headers]
    if _CODING not in names:
        return ""
    if _LENGTH in names:
        return "Content-Length beside Transfer-Encoding"
    # HTTP/1.0 has no such header: a proxy of that age doesn't know it (RFC 9112, 6.1).
    return "Transfer-Encoding in HTTP/1.0" if version == "1.0" else ""
