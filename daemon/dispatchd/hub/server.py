"""The hub as a process: routes, a socket, signals. Nothing is held back by a stop: open polls end with 204."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from typing_extensions import override

from dispatchd.errors import NotReachable
from dispatchd.hub.desk import Desk
from dispatchd.hub.dispatch import Dispatch
from dispatchd.hub.jobs import Jobs
from dispatchd.hub.licenses import Licenses
from dispatchd.hub.rules import Refused
from dispatchd.hub.storage import StorageBusy

_BACKLOG: Final = 512
_STOP_S: Final = 10
"""How long a stop waits for requests that are still being sent (seconds)."""


def application(desk: Desk) -> Starlette:
    """Return the hub's application."""
    return Starlette(
        routes=[
            *Dispatch(desk).routes(),
            *Jobs(desk).routes(),
            *Licenses(desk).routes(),
        ],
        exception_handlers={
            Refused: _refused,
            StorageBusy: _busy,
            HTTPException: _unknown,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )


async def serve(
    desk: Desk, host: str, port: int, announce: Callable[[int], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        desk: The hub's state.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        announce: Called with the port once connections are taken.

    Fails with NotReachable if the address can't be had.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        application(desk),
        log_level="warning",
        access_log=False,
        backlog=_BACKLOG,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_S,
    )
    server = _Server(config, lambda: announce(listener.getsockname()[1]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, desk, server)
        await server.serve(sockets=[listener])
        tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """uvicorn with our own signal handling, which knows of the held polls."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


async def _stop_on_signal(desk: Desk, server: _Server) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            desk.stop()
            server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        # The protocol is named so that accepted connections name it too: only then does asyncio set
        # TCP_NODELAY on them, without which a reply waits 40 ms for the client's delayed ACK.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        reason = f"{error.strerror or error}; choose another with --host and --port"
        raise NotReachable(
            cannot=f"listen on {host} port {port}", reason=reason
        ) from error
    return listener


async def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    return JSONResponse({"message": error.message}, status_code=error.status)


async def _unknown(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse(
        {"message": error.detail}, status_code=error.status_code, headers=error.headers
    )


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _failed(_request: Request, _error: Exception) -> Response:
    # The traceback goes to the hub's own log, and only there.
    return JSONResponse(
        {"message": "the hub has failed; its log says how"},
        status_code=HTTPStatus.INTERNAL_SERVER_ERROR,
    )


async def _busy(_request: Request, error: Exception) -> Response:
    return JSONResponse(
        {"message": f"the hub's database can't be used now: {error}"},
        status_code=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": "1"},
    )
