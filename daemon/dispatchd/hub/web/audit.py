"""Audit: the record of each change, and the page that lists the newest ones."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import structlog
from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.audit import Change
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import answering, render

_LISTED: Final = 200
"""Changes on the page (count)."""


def recording(context: Context) -> Callable[[Change], Awaitable[None]]:
    """Return a function that stores a change; it has been made by then, so its answer is sent in any case."""

    async def record(change: Change) -> None:
        audit, now = context.stores.audit, context.now()
        try:
            await context.write(lambda: audit.add(change, now=now))
        except StorageBusy as error:
            structlog.get_logger().warning("audit_not_stored", error=str(error))

    return record


@frozen
class AuditPage:
    """Route of the audit list."""

    entry: Entry

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/audit", answering(self.show), methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return the newest changes.

        Raises:
            Refused: The visitor isn't an admin.
        """
        visitor = await self.entry.visitor(request)
        if not visitor.is_admin:
            raise Refused(HTTPStatus.FORBIDDEN, "the audit list is for admins")
        context = self.entry.context
        changes = await context.use_for_list(
            lambda: context.stores.audit.newest(_LISTED)
        )
        days = f"{context.settings.retention.audit_days:g}"
        return HTMLResponse(
            render("audit.html", visitor, changes=changes, most=_LISTED, days=days)
        )
