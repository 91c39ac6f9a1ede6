"""Client of one origin, for the calls: the part of httpx's client that they need.

Deliberately absent: cookies, redirects, authentication and the joining of URLs, which cost the daemon as much
for a call as the rest of the way.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import httpx
from attrs import field, frozen


class Http(Protocol):
    """Sends requests to one origin; httpx's own client is one."""

    def stream(
        self, method: str, url: str, *, content: bytes, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Send a request to a path, and yield its response before the body is read."""
        ...


@frozen
class PlainClient:
    """Sends requests with a body to one origin. Implements `Http`."""

    transport: httpx.AsyncBaseTransport
    base: httpx.URL
    """Origin, and the beginning of each path."""
    headers: Mapping[str, str] = field(factory=dict)
    """Headers of each request."""
    _path: bytes = field(init=False)
    _common: tuple[tuple[bytes, bytes], ...] = field(init=False)

    @_path.default
    def _of_base(self) -> bytes:
        return self.base.raw_path.rstrip(b"/")

    @_common.default
    def _of_each(self) -> tuple[tuple[bytes, bytes], ...]:
        always = {"Host": self.base.netloc.decode(), "Accept": "*/*"}
        return _encoded({**always, "Connection": "keep-alive", **self.headers})

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, content: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Send a request to a path, and yield its response before the body is read.

        Raises:
            RequestError: No response came.
        """
        length = (b"Content-Length", str(len(content)).encode())
        request = httpx.Request(
            method,
            self.base,
            headers=[*self._common, length, *_encoded(headers)],
            stream=httpx.ByteStream(content),
            # Instead of a URL of its own, which costs more than the rest of the request.
            extensions={"target": self._path + url.encode("ascii")},
        )
        try:
            response = await self.transport.handle_async_request(request)
        except httpx.RequestError as error:
            error.request = request
            raise
        response.request = request
        try:
            yield response
        finally:
            await response.aclose()


def _encoded(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.encode(), value.encode()) for name, value in headers.items())
