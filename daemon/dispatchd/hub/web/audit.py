"""Audit: the record of each change, and the page that lists them."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

import structlog
from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.audit import Change
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.storage.cursors import Cursor
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import answering, render

_LISTED: Final = 100
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
        """Return changes, newest first.

        Raises:
            Refused: The visitor isn't an admin.
        """
        visitor = await self.entry.visitor(request)
        if not visitor.is_admin:
            raise Refused(HTTPStatus.FORBIDDEN, "the audit list is for admins")
        context = self.entry.context
        before = Cursor.read(request.query_params.get("before", ""))
        changes = await context.use_for_list(
            lambda: context.stores.audit.newest(_LISTED + 1, before)
        )
        listed, older = changes[:_LISTED], ""
        if len(changes) > _LISTED:
            older = f"/audit?{urlencode({'before': listed[-1][0].text})}"
        return HTMLResponse(
            render(
                "audit.html",
                visitor,
                changes=listed,
                days=f"{context.settings.retention.audit_days:g}",
                older=older,
                newest="/audit" if before else "",
            )
        )
