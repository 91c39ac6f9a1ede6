"""Login with an access token, and logout."""

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
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN, READ, allows
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.web.forms import FORM_TOKEN, own_path, read_form
from dispatchd.hub.web.render import LoginNeeded, Visitor, page

_LOGIN_COOKIE: Final = "dispatchd_hub_login"
"""Cookie to which the form of a login is bound, as there is no session yet."""


@frozen
class Entry:
    """Routes of login and logout, and checks of a request's session."""

    context: Context

    async def show(self, request: Request) -> Response:
        """Return the form of the login, or redirect a person who is logged in already."""
        next_path = own_path(request.query_params.get("next", "/"))
        if request.method == "GET" and "once" in request.query_params:
            return await self._invited(request, next_path)
        try:
            await self.visitor(request)
        except LoginNeeded:
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
        _set_cookie(request, response, COOKIE, session)
        _set_cookie(request, response, _LOGIN_COOKIE, "")
        return response

    async def logout(self, request: Request) -> Response:
        """End the session, at the hub and in the browser."""
        await self.posted(request)
        value, now = request.cookies[COOKIE], self.context.now()
        await self.context.use(lambda: self.context.sessions.end(value, now=now))
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        _set_cookie(request, response, COOKIE, "")
        return response

    async def visitor(self, request: Request) -> Visitor:
        """Return the person who is logged in with a request's session.

        Raises:
            LoginNeeded: There is no valid session.
        """
        token = await self.context.session(request)
        if token is None or not allows(token, READ):
            raise LoginNeeded
        value = request.cookies[COOKIE]
        form_token = await self.context.use(
            lambda: self.context.sessions.form_token(value)
        )
        return Visitor(
            name=token.name, is_admin=allows(token, ADMIN), form_token=form_token
        )

    async def posted(
        self, request: Request, *, by_admin: bool = False
    ) -> dict[str, str]:
        """Return the fields of a form, if a page of the visitor's session made it.

        Raises:
            Refused: No page of their session made it, or it needs `admin`.
            LoginNeeded: Nobody is logged in.
        """
        visitor, form = await self.visitor(request), await read_form(request)
        if not await self._is_ours(form, request.cookies[COOKIE]):
            message = "this form is not from your session; load its page again"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        if by_admin and not visitor.is_admin:
            raise Refused(HTTPStatus.FORBIDDEN, "the token is not for admin")
        if by_admin:
            note_owner(request, visitor.name)
        return form

    def _note_refused(
        self, request: Request, status: HTTPStatus, **about: object
    ) -> None:
        self.context.refusals.note(
            "login_refused", request, status=int(status), **about
        )

    async def _is_ours(self, form: dict[str, str], bound_to: str) -> bool:
        given, sessions = form.get(FORM_TOKEN, ""), self.context.sessions
        return await self.context.use(lambda: sessions.is_form_token(bound_to, given))

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
        )
        _set_cookie(request, response, _LOGIN_COOKIE, bound_to)
        return response


def _set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Set a cookie, or delete it if the value is empty."""
    response.set_cookie(
        name,
        value,
        max_age=LIFE_S if value else 0,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
