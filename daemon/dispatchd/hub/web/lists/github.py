"""Page of GitHub: how far its deliveries are handled, what GitHub has yet to be told, and what failed last."""

from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.extension import Extension
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import Visitor, answering, render

_LISTED: Final = 20
"""Failed checks, and installations, on the page (count)."""

_LOOKED_AT: Final = 5000
"""Newest deliveries whose installations are listed (count)."""

_WAYS: Final = {
    "webhook": "GitHub sends events to the hub (webhook)",
    "poll": "the hub fetches events (poll)",
    "none": "none",
}
"""Ways of events, in words."""


@frozen
class GithubPage:
    """Route of the page."""

    entry: Entry
    extension: Extension

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/github", answering(self.show), methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return how the hub gets on with GitHub."""
        visitor = await self.entry.visitor(request)
        limited = dict(self.extension.limited())
        return HTMLResponse(
            await self.entry.context.use_for_list(lambda: self._page(visitor, limited))
        )

    def _page(self, visitor: Visitor, limited: dict[int, float]) -> str:
        stores, status = self.entry.context.stores, self.extension.status()
        heard_at = stores.deliveries.installations(_LOOKED_AT) if status else {}
        newest = sorted({*heard_at, *limited}, key=lambda one: -heard_at.get(one, 0.0))[
            :_LISTED
        ]
        return render(
            "github.html",
            visitor,
            now=self.entry.context.now(),
            status=status,
            ways=_WAYS,
            installations=[
                (one, heard_at.get(one, 0.0), limited.get(one, 0.0)) for one in newest
            ],
            failing=stores.checks.failing(_LISTED) if status else [],
        )
