"""Forms: read up to a limit, and only if a page of this hub has sent them."""

from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from dispatchd.hub.http_bodies import Refused

FORM_TOKEN: Final = "form_token"  # noqa: S105  # a name

_LARGEST: Final = 16 * 1024
"""Largest form that is read (bytes)."""
_MOST_FIELDS: Final = 20


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that didn't come from another site.

    Raises:
        Refused: It came from another site, is no form, or is too large.
    """
    _require_own_site(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the form is too large")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS
        )
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "that is no form") from error
    return dict(pairs)


def own_path(path: str) -> str:
    """Return the path of this hub to redirect to; the first page if the wanted path could lead elsewhere."""
    # Browsers drop line breaks and tabs from a URL, and read a backslash as a slash.
    plain = path.isascii() and path.isprintable() and not {" ", "\\"} & set(path)
    inside = path.startswith("/") and not path.startswith("//")
    return path if plain and inside else "/"


def _require_own_site(request: Request) -> None:
    """Check that a request may have come from a page of this hub.

    A browser sends the origin "null" for the hub's own forms, too, because they send no referrer; their token protects
    these.

    Raises:
        Refused: It came from elsewhere.
    """
    origin, host = request.headers.get("origin", "null"), request.headers.get("host")
    if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise Refused(HTTPStatus.FORBIDDEN, "another site has sent this form")
    if origin != "null" and origin.partition("://")[2] != host:
        message = (
            f"the form comes from {origin}, and this is {host}; "
            "a proxy in front of the hub has to pass the Host header on"
        )
        raise Refused(HTTPStatus.FORBIDDEN, message)
