"""Answers as pages: made from templates that escape all texts of jobs, with headers that block content from elsewhere."""

from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from pathlib import PurePath
from typing import Final
from urllib.parse import quote

from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dispatchd.errors import DispatchdError
from dispatchd.hub.api.errors import answer_to
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.login.ways import ServiceAway
from dispatchd.hub.web import text
from dispatchd.hub.web import view_model as shapes
from dispatchd.hub.web.acts import act
from dispatchd.hub.web.markdown import markdown
from dispatchd.protocol.times import ago, duration, iso, size, utc

Handler = Callable[[Request], Awaitable[Response]]

_HERE: Final = "dispatchd.hub.web"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_RELOADED_S: Final = 5
"""Shortest interval at which a browser is told to load a page again (seconds)."""


@frozen(kw_only=True)
class Visitor:
    """Person who looks at the page, by an access token or by a login elsewhere."""

    name: str
    """Name for people."""
    signature: str
    """Name in the audit list."""
    role: str
    """Role, in a word for people."""
    may_operate: bool
    """True if they may run jobs again, end them, and pause dispatch."""
    is_admin: bool
    form_token: str
    """Token that their forms need."""
    repositories: Mapping[str, int] | None = None
    """Repositories whose jobs they see, each with its id at GitHub; None for everything."""

    def sees(self, job: HubJob) -> bool:
        """Return whether the person may see a job.

        A repository is the same one by its id: after it was renamed another one may have its name. Those of other
        services have names alone, which anybody can take at GitHub.
        """
        if self.repositories is None:
            return True
        known = self.repositories.get(job.repository)
        if known is None or job.document.is_of_a_webhook:
            return False
        return job.document.repository_id in {0, known}


class LoginNeeded(DispatchdError):
    """Request without a session."""


def _static() -> dict[str, bytes]:
    folder = files(_HERE).joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


_STATIC: Final = _static()
_VERSION: Final = sha256(
    b"".join(content for _, content in sorted(_STATIC.items()))
).hexdigest()[:12]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in ("job_path", "shown", "shown_lines", "state_word"):
        environment.filters[name] = getattr(text, name)
    environment.filters.update(title_of=shapes.title, has_ended=shapes.has_ended)
    environment.filters.update(short_id=shapes.short_id, state_of=text.state_of)
    environment.filters.update(iso=iso, utc=utc, act=act, ago=ago, duration=duration)
    environment.filters["size"] = size
    environment.filters["markdown"] = markdown
    environment.globals.update(static=f"/static/{_VERSION}", State=State)
    return environment


_TEMPLATES: Final = _environment()


def render(template: str, visitor: Visitor | None, **values: object) -> str:
    """Return a page."""
    return _TEMPLATES.get_template(template).render(visitor=visitor, **values)


def page(
    template: str,
    visitor: Visitor | None,
    status: HTTPStatus = HTTPStatus.OK,
    **values: object,
) -> Response:
    """Return a page as an answer."""
    return HTMLResponse(render(template, visitor, **values), status_code=status)


def answering(handler: Handler) -> Handler:
    """Return a handler that shows errors as pages, and whose answers have the headers of all pages."""

    async def answer(request: Request) -> Response:
        response = await _answer(handler, request)
        for name, value in {**_HEADERS, "Cache-Control": "no-store"}.items():
            response.headers.setdefault(name, value)
        return response

    return answer


async def _answer(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except LoginNeeded:
        return _to_login(request)
    except ServiceAway as away:
        return _away(away)
    except Refused as refused:
        return _wrong(refused.status, refused.message)
    except HubError as error:
        answer = answer_to(error)
        retry_s = max(answer.retry_s, _RELOADED_S) if answer.retry_s else 0
        return _wrong(answer.status, answer.message, retry_s)


async def static(request: Request) -> Response:
    """Return a static file; under the current version browsers may cache it for ever.

    Raises:
        Refused: There is no such file.
    """
    name = request.path_params["name"]
    if name not in _STATIC:
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such file")
    current = request.path_params["version"] == _VERSION
    return Response(
        _STATIC[name],
        media_type=_TYPES[PurePath(name).suffix],
        headers={"Cache-Control": _FOR_EVER if current else "no-store"},
    )


def _wrong(status: HTTPStatus, message: str, retry_s: int = 0) -> Response:
    title, sentence = status.phrase, f"{message[:1].upper()}{message[1:]}."
    response = page("wrong.html", None, status, title=title, sentence=sentence)
    if retry_s:
        response.headers["Retry-After"] = str(retry_s)
    return response


def _away(away: ServiceAway) -> Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    response = page("away.html", None, status, label=away.label)
    response.headers["Retry-After"] = str(_RELOADED_S)
    return response


def onward(next_path: str) -> Response:
    """Return a page that loads a path of this hub.

    The browser sends the cookie only with requests of the hub's own pages, and a redirect from elsewhere isn't one.
    """
    return page("again.html", None, next_path=next_path)


def _to_login(request: Request) -> Response:
    if request.method != "GET":
        return RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    next_path = f"{path}?{query}" if query else path
    if request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        # A link on another site, for example of a check at GitHub.
        return onward(next_path)
    return RedirectResponse(
        f"/login?next={quote(next_path, safe='')}", HTTPStatus.SEE_OTHER
    )
