"""Routes of a login by another service: to the service, and back with a code.

A cookie binds the login to one browser: it has state, nonce and verifier, sealed. It is sent with the return from the
service (SameSite=Lax), which the session's cookie isn't. Each login comes back once.
"""

from http import HTTPStatus
from secrets import token_urlsafe
from typing import Final
from urllib.parse import quote

import anyio
import structlog
from attrs import field, frozen
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.audit import address_of
from dispatchd.hub.auth.people import Begun, Person
from dispatchd.hub.context import COOKIE
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.login.people import People
from dispatchd.hub.login.ways import LoginRefused, Way
from dispatchd.hub.web.forms import own_path
from dispatchd.hub.web.login import Entry, set_cookie
from dispatchd.hub.web.render import answering, onward, page

_COOKIE: Final = "dispatchd_hub_begun"
"""Cookie of a login under way."""

_PATH: Final = "/login/"
"""Path of the addresses to which the cookie is sent."""

_LASTS_S: Final = 600
"""Time for a login at the service (seconds)."""

_AT_ONCE: Final = 8
"""Most codes that are exchanged at the same time (count): anybody can come back with one."""

_LONGEST_PATH: Final = 1000
"""Longest path to return to (characters): a cookie has 4096 at most."""


@frozen
class LoginPage:
    """Routes of logins by other services."""

    entry: Entry
    _asking: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_AT_ONCE), init=False
    )

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/login/{way}", answering(self.begin), methods=["GET"]),
            Route("/login/{way}/callback", answering(self.come_back), methods=["GET"]),
        ]

    @property
    def people(self) -> People:
        """People who log in so."""
        return self.entry.people

    async def begin(self, request: Request) -> Response:
        """Redirect to the service, and bind the login to this browser."""
        way = self._way(request)
        next_path = own_path(request.query_params.get("next", "/"))
        begun = Begun(
            way=way.name,
            state=token_urlsafe(24),
            nonce=token_urlsafe(24),
            verifier=token_urlsafe(48),
            next_path=next_path if len(next_path) <= _LONGEST_PATH else "/",
            until=self.entry.context.now() + _LASTS_S,
        )
        with self.entry.noting(request):
            address = await way.address(begun, self._redirect_uri(way))
        value = await self.entry.context.use(lambda: self.people.sessions.keep(begun))
        response = RedirectResponse(address, HTTPStatus.SEE_OTHER)
        self._bind(request, response, value)
        return response

    async def come_back(self, request: Request) -> Response:
        """Begin the session of the person whom the service names.

        Raises:
            Refused: It is no request of a browser that has come back.
        """
        way = self._way(request)
        if request.method != "GET":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only a browser comes back")
        sessions, now = self.people.sessions, self.entry.context.now()
        value, answer = request.cookies.get(_COOKIE, ""), dict(request.query_params)
        begun = await self.entry.context.use(
            lambda: sessions.come_back(
                value, way.name, answer.get("state", ""), now=now
            )
        )
        if begun is None:
            reason = "it was begun in another browser or tab, was used already, or took too long"
            return self._refused(request, way, reason, "/", is_its_own=False)
        try:
            async with self._asking:
                with self.entry.noting(request):
                    person = await way.person(begun, answer, self._redirect_uri(way))
        except LoginRefused as refused:
            return self._refused(request, way, refused.reason, begun.next_path)
        if not self.people.may_enter(person):
            return self._unknown(request, way, person)
        return await self._entered(request, person, begun.next_path)

    async def _entered(
        self, request: Request, person: Person, next_path: str
    ) -> Response:
        sessions, now = self.people.sessions, self.entry.context.now()
        value = await self.entry.context.use(lambda: sessions.begin(person, now=now))
        structlog.get_logger().info(
            "person_logged_in", by=person.signature, address=address_of(request)
        )
        response = onward(next_path)
        set_cookie(request, response, COOKIE, value, is_secure=self._is_secure)
        self._bind(request, response, "")
        return response

    def _refused(
        self,
        request: Request,
        way: Way,
        reason: str,
        next_path: str,
        *,
        is_its_own: bool = True,
    ) -> Response:
        """Return the page of a refused login, which ends the one under way in this browser if it is that one."""
        status = HTTPStatus.UNAUTHORIZED
        self.entry.context.refusals.note(
            "login_refused", request, status=int(status), way=way.name, reason=reason
        )
        again = f"/login?next={quote(next_path, safe='')}"
        response = page(
            "refused.html", None, status, label=way.label, reason=reason, again=again
        )
        if is_its_own:
            self._bind(request, response, "")
        return response

    def _unknown(self, request: Request, way: Way, person: Person) -> Response:
        status = HTTPStatus.FORBIDDEN
        reason = f"{person.name} has no role here; an admin of this hub gives roles in its configuration"
        self.entry.context.refusals.note(
            "login_refused",
            request,
            status=int(status),
            way=way.name,
            by=person.signature,
            reason="no role",
        )
        response = page(
            "refused.html", None, status, label=way.label, reason=reason, again="/login"
        )
        self._bind(request, response, "")
        return response

    def _way(self, request: Request) -> Way:
        """Return the way of a request's path.

        Raises:
            Refused: There is none of that name.
        """
        way = self.people.ways.by_name.get(request.path_params["way"])
        if way is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return way

    def _redirect_uri(self, way: Way) -> str:
        return f"{self.people.settings.public_url}{_PATH}{way.name}/callback"

    @property
    def _is_secure(self) -> bool:
        return self.people.settings.public_url.startswith("https:")

    def _bind(self, request: Request, response: Response, value: str) -> None:
        """Set the cookie of a login under way, or delete it if the value is empty."""
        response.set_cookie(
            _COOKIE,
            value,
            max_age=_LASTS_S if value else 0,
            path=_PATH,
            secure=self._is_secure or request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
