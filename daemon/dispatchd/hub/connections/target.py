"""Requests whose target is in absolute form, as some proxies and clients send it (RFC 9112, 3.2.2)."""

from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from dispatchd.network.request_target import absolute_target


def in_origin_form(app: ASGIApp) -> ASGIApp:
    """Return an application that gets every request target in origin form; the host of an absolute one is the Host."""

    async def normalized(scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path", b"")
        absolute = (
            None if raw.startswith(b"/") else absolute_target(raw.decode("latin-1"))
        )
        if absolute is not None:
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope = {
                **scope,
                "path": unquote(absolute.origin_form),
                "raw_path": absolute.origin_form.encode("latin-1"),
                "headers": [(b"host", absolute.host.encode("latin-1")), *others],
            }
        await app(scope, receive, send)

    return normalized
