"""Login with an access token, and logout."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dispatchd.hub.auth.audit import note_owner
from dispatchd.hub.auth.hashing import hashed
from dispatchd.hub.auth.sessions import LIFE_S
from dispatchd.hub.context import COOKIE, Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN, OPERATE, READ, allows
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.login.people import People, Visit
from dispatchd.hub.login.ways import ServiceAway
from dispatchd.hub.web.forms import FORM_TOKEN, own_path, read_form
from dispatchd.hub.web.render import LoginNeeded, Visitor, page

_LOGIN_COOKIE: Final = "dispatchd_hub_login"
"""Cookie to which the form of a login is bound, as there is no session yet."""


@frozen
class Entry:
    """Routes of login and logout, and checks of a request's session."""

    context: Context
    people: People

    async def show(self, request: Request) -> Response:
        """Return the form of the login, or redirect a person who is logged in already."""
        next_path = own_path(request.query_params.get("next", "/"))
        if request.method == "GET" and "once" in request.query_params:
            return await self._invited(request, next_path)
        try:
            await self.reader(request)
        except (LoginNeeded, ServiceAway):
            return await self._form(request, next_path)
        return RedirectResponse(next_path, HTTPStatus.SEE_OTHER)

    async def login(self, request: Request) -> Response:
        """Begin a session, if the token has the scope `read`."""
        form = await read_form(request)
        next_path = own_path(form.get("next", "/"))
        if not await self._is_ours(form, request.cookies.get(_LOGIN_COOKIE, "")):
            return await self._form(
                request,
                next_path,
                HTTPStatus.FORBIDDEN,
                "This form was too old. Try again.",
            )
        given = hashed(form.get("token", "").strip())
        token = await self.context.use(lambda: self.context.stores.tokens.find(given))
        if token is None:
            message, status = "The token is not valid here.", HTTPStatus.UNAUTHORIZED
            self._note_refused(request, status, reason="no such token")
            return await self._form(request, next_path, status, message)
        if not allows(token, READ):
            message, status = (
                "The token is not for read or admin.",
                HTTPStatus.FORBIDDEN,
            )
            self._note_refused(request, status, reason=message, by=token.name)
            return await self._form(request, next_path, status, message)
        return await self._begun(request, token, next_path)

    async def _invited(self, request: Request, next_path: str) -> Response:
        """Begin a session by a link of `dispatchd hub login-link`, which is good once."""
        given, sessions = request.query_params["once"], self.context.sessions
        token = await self.context.use(
            lambda: sessions.accept(given, now=self.context.now())
        )
        if token is None or not allows(token, READ):
            message, status = (
                "This link has been used, or is too old. Make another one by dispatchd hub login-link.",
                HTTPStatus.UNAUTHORIZED,
            )
            self._note_refused(request, status, reason="no such link")
            return await self._form(request, next_path, status, message)
        return await self._begun(request, token, next_path)

    async def _begun(self, request: Request, token: Token, next_path: str) -> Response:
        session = await self.context.use(
            lambda: self.context.sessions.begin(token, now=self.context.now())
        )
        response = RedirectResponse(next_path, HTTPStatus.SEE_OTHER)
        self._set_cookie(request, response, COOKIE, session)
        self._set_cookie(request, response, _LOGIN_COOKIE, "")
        return response

    async def logout(self, request: Request) -> Response:
        """End the session, at the hub and in the browser."""
        value, now = request.cookies.get(COOKIE, ""), self.context.now()
        try:
            await self.posted(request)
        except ServiceAway:
            # Nobody else is needed to leave.
            await self._own_form(request)
        await self.context.use(lambda: self.context.sessions.end(value, now=now))
        await self.context.use(lambda: self.people.sessions.end(value, now=now))
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        self._set_cookie(request, response, COOKIE, "")
        return response

    async def visitor(self, request: Request) -> Visitor:
        """Return the person who is logged in with a request's session and sees everything.

        Raises:
            LoginNeeded: There is no valid session.
            Refused: The person sees the jobs of some repositories alone.
            ServiceAway: It can't be asked what the person may see.
        """
        visitor = await self.reader(request)
        if visitor.repositories is not None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return visitor

    async def reader(self, request: Request) -> Visitor:
        """Return the person who is logged in with a request's session, who may see the jobs of some repositories alone.

        Raises:
            LoginNeeded: There is no valid session.
            ServiceAway: It can't be asked what the person may see.
        """
        value = request.cookies.get(COOKIE, "")
        token = await self.context.session(request)
        if token is None:
            with self.noting(request):
                visit = await self.people.visit(value)
            if visit is None:
                raise LoginNeeded
            return _of_visit(visit, await self._form_token(value))
        if not allows(token, READ):
            raise LoginNeeded
        is_admin = allows(token, ADMIN)
        return Visitor(
            name=token.name,
            signature=token.name,
            role="admin" if is_admin else "read",
            may_operate=is_admin,
            is_admin=is_admin,
            form_token=await self._form_token(value),
        )

    @contextmanager
    def noting(self, request: Request) -> Iterator[None]:
        """Log that a service is away for which a request has asked, if it is; anybody can make it be asked.

        Raises:
            ServiceAway: The service is away.
        """
        try:
            yield
        except ServiceAway as away:
            self.context.refusals.note(
                "login_service_away", request, service=away.label, reason=away.reason
            )
            raise

    async def still_reads(self, request: Request, job_id: str = "") -> bool:
        """Return whether the session of a stream is still valid, and still sees a job if one is given."""
        try:
            visitor = await self.reader(request)
            if not job_id or visitor.repositories is None:
                return True
            job = await self.context.use(lambda: self.context.stores.reader.get(job_id))
        except (LoginNeeded, ServiceAway):
            return False
        except StorageBusy:
            # The page shows that error when it looks.
            return True
        return job is not None and visitor.sees(job)

    async def posted(self, request: Request, *, needs: str = "") -> dict[str, str]:
        """Return the fields of a form, if a page of the visitor's session made it.

        Args:
            request: The request.
            needs: The scope that the act needs; empty for none.

        Raises:
            Refused: No page of their session made it, or they lack the scope.
            LoginNeeded: Nobody is logged in.
        """
        visitor = await self.reader(request)
        form = await self._own_form(request)
        if needs == OPERATE and not visitor.may_operate:
            message = f"{visitor.role} is no role for that; it needs operator or admin"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        if needs == ADMIN and not visitor.is_admin:
            raise Refused(HTTPStatus.FORBIDDEN, "that needs the role admin")
        if needs:
            note_owner(request, visitor.signature)
        return form

    async def _own_form(self, request: Request) -> dict[str, str]:
        form = await read_form(request)
        if not await self._is_ours(form, request.cookies.get(COOKIE, "")):
            message = "this form is not from your session; load its page again"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        return form

    async def _form_token(self, value: str) -> str:
        sessions = self.context.sessions
        return await self.context.use(lambda: sessions.form_token(value))

    def _note_refused(
        self, request: Request, status: HTTPStatus, **about: object
    ) -> None:
        self.context.refusals.note(
            "login_refused", request, status=int(status), **about
        )

    async def _is_ours(self, form: dict[str, str], bound_to: str) -> bool:
        given, sessions = form.get(FORM_TOKEN, ""), self.context.sessions
        return await self.context.use(lambda: sessions.is_form_token(bound_to, given))

    def _set_cookie(
        self, request: Request, response: Response, name: str, value: str
    ) -> None:
        is_secure = self._is_by_https(request)
        set_cookie(request, response, name, value, is_secure=is_secure)

    def _is_by_https(self, request: Request) -> bool:
        """Return whether a request is for the hub's public address with HTTPS: a proxy with TLS may not say that it is one."""
        github = self.context.settings.github
        url = self.people.settings.public_url or (github.public_url if github else "")
        host = request.headers.get("host", "").lower().removesuffix(":443")
        public = url.lower().removesuffix("/").removesuffix(":443")
        return public == f"https://{host}"

    async def _form(
        self,
        request: Request,
        next_path: str,
        status: HTTPStatus = HTTPStatus.OK,
        wrong: str = "",
    ) -> Response:
        bound_to = request.cookies.get(_LOGIN_COOKIE) or token_urlsafe(18)
        form_token = await self.context.use(
            lambda: self.context.sessions.form_token(bound_to)
        )
        response = page(
            "login.html",
            None,
            status,
            wrong=wrong,
            next_path=next_path,
            form_token=form_token,
            ways=self.people.listed,
            public_url=self.people.settings.public_url,
        )
        self._set_cookie(request, response, _LOGIN_COOKIE, bound_to)
        return response


def _of_visit(visit: Visit, form_token: str) -> Visitor:
    scopes = set() if visit.role is None else set(visit.role.scopes.split())
    return Visitor(
        name=visit.person.name,
        signature=visit.person.signature,
        role="reader" if visit.role is None else visit.role.value,
        may_operate=OPERATE in scopes,
        is_admin=ADMIN in scopes,
        form_token=form_token,
        repositories=visit.repositories,
    )


def set_cookie(
    request: Request,
    response: Response,
    name: str,
    value: str,
    *,
    is_secure: bool = False,
) -> None:
    """Set a cookie of the hub's own pages, or delete it if the value is empty.

    Args:
        request: The request; over HTTPS the cookie is for HTTPS alone.
        response: The response.
        name: The name.
        value: The value.
        is_secure: True if people reach the hub by HTTPS, as through a proxy.
    """
    response.set_cookie(
        name,
        value,
        max_age=LIFE_S if value else 0,
        path="/",
        secure=is_secure or request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
