"""Connections that belong together, closed when they are no longer needed."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import httpx
from attrs import define
from typing_extensions import override

from dispatchd.network.proxies import Proxy

_CLOSE_S: Final = 2.0
"""Time limit of the orderly end of a pool's connections (seconds)."""


@define(eq=False)
class Pool:
    """Connections for one state of the files; counts the requests that are under way."""

    inner: httpx.AsyncBaseTransport
    proxy: Proxy | None
    since_s: float
    requests: int = 0
    retired: bool = False

    async def retire(self) -> None:
        """Refuse new requests, and close when the last one has ended."""
        self.retired = True
        await self._close_if_idle()

    def enter(self) -> None:
        """Count one request more."""
        self.requests += 1

    async def leave(self) -> None:
        """Count one request less."""
        self.requests -= 1
        await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if self.retired and self.requests == 0:
            # Bounded and shielded: a cancelled call may be the last one.
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self.inner.aclose()


@define(eq=False)
class LastingStream(httpx.AsyncByteStream):
    """Body of an answer; at its end the pool counts one request less."""

    stream: httpx.AsyncByteStream
    pool: Pool
    request: httpx.Request
    closed: bool = False

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_httpx_errors(self.request):
            async for chunk in self.stream:
                yield chunk

    @override
    async def aclose(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            await self.stream.aclose()
        finally:
            await self.pool.leave()


@contextmanager
def as_httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Turn errors that a transport lets through into httpx's own kind of error.

    Those are: errors of `ssl` that come after the handshake, as with a client's certificate
    that a TLS 1.3 server doesn't accept (RFC 8446, 4.4.2.4), those of a socket's options, and the one
    of a name that can't be looked up at all.

    Raises:
        ReadError: In place of such an error.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise httpx.ReadError(str(error), request=request) from error
