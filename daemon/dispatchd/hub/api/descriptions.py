"""Routes of the descriptions: what people, programs and machines may ask of this hub, for the tools that read OpenAPI."""

from attrs import field, frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatchd.protocol.published.openapi import Api, bundled

_TYPE = "application/json"


@frozen
class Descriptions:
    """Descriptions of this release; they say nothing about what the hub stores, so anybody may read them."""

    hub: str = field(factory=lambda: bundled(Api.HUB))
    """JSON, read before another release's file may stand in its place."""
    endpoint: str = field(factory=lambda: bundled(Api.ENDPOINT))
    """Likewise."""

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/openapi.json", self.show_hub, methods=["GET"]),
            Route("/endpoint.openapi.json", self.show_endpoint, methods=["GET"]),
        ]

    async def show_hub(self, _: Request) -> Response:
        """Return the calls of people and programs."""
        return Response(self.hub, media_type=_TYPE)

    async def show_endpoint(self, _: Request) -> Response:
        """Return the calls of machines."""
        return Response(self.endpoint, media_type=_TYPE)
