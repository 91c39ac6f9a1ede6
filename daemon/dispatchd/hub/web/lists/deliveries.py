"""Page of the deliveries: each received event, and the decision about it in words."""

from typing import Final
from urllib.parse import urlencode

from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.storage.cursors import Cursor
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import answering, render

_LISTED: Final = 50
"""Deliveries on a page (count)."""

_STATES: Final = ("queued", "done", "ignored", "redelivered")


@frozen
class DeliveriesPage:
    """Route of the list of deliveries."""

    entry: Entry

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/deliveries", answering(self.show), methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return the newest deliveries."""
        visitor = await self.entry.visitor(request)
        query, context = request.query_params, self.entry.context
        state = query.get("state", "") if query.get("state") in _STATES else ""
        before = Cursor.read(query.get("before", ""))
        store = context.stores.deliveries
        found = await context.use_for_list(
            lambda: store.list(_LISTED + 1, before=before, state=state)
        )
        shown, older = found[::-1][:_LISTED], ""
        if len(found) > _LISTED:
            last = Cursor(at=shown[-1].received_at, id=shown[-1].id)
            kept = {"state": state} if state else {}
            place = {**kept, "before": last.text}
            older = f"/deliveries?{urlencode(place, errors='surrogatepass')}"
        return HTMLResponse(
            render(
                "deliveries.html",
                visitor,
                now=context.now(),
                deliveries=shown,
                states=_STATES,
                state=state,
                older=older,
                newest="/deliveries" if before else "",
            )
        )
