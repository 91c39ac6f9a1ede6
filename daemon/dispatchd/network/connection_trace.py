"""The way of one request: its last stage, and the options of its socket."""

import socket
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from attrs import define

from dispatchd.network.proxies import Proxy

# A peer that vanishes is noticed after 30 + 3 * 10 s of silence, and after 60 s with unacknowledged
# data on the way (tcp(7)). The deadline of each call applies in addition.
_SOCKET_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)


class Stage(StrEnum):
    """Last stage of a request."""

    WAITING = "waiting"  # for a place in the pool, or unknown
    CONNECTING = "connecting"
    SECURING = "securing"  # the TLS handshake
    TUNNELLING = "tunnelling"  # CONNECT has been sent to the proxy
    ASKING = "asking"  # the request itself is under way


@define
class ConnectionTrace:
    """Follows a request on its way, so that a failure can be located, and sets the options of each new socket.

    httpcore calls it (its `trace` extension), since it passes no options on to connections through a proxy.
    """

    proxy: Proxy | None
    """Proxy on its way, with the credentials that it got."""
    stage: Stage = Stage.WAITING
    with_proxy: bool = False
    fresh: bool = False

    def connecting(self) -> None:
        """Record that a new connection is begun."""
        self.stage, self.fresh = Stage.CONNECTING, True
        self.with_proxy = self.proxy is not None

    def securing(self) -> None:
        """Record that a TLS handshake is begun."""
        self.stage = Stage.SECURING

    def asking(self) -> None:
        """Record that the request is sent."""
        self.stage = Stage.ASKING

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Record one step of httpcore."""
        match event:
            case "connection.connect_tcp.started":
                self.connecting()
            case "connection.connect_tcp.complete":
                tune(info["return_value"].get_extra_info("socket"))
            case "connection.start_tls.started":
                self.securing()
            case "proxy.start_tls.started":
                self.securing()
                self.with_proxy = False
            case "http11.send_request_headers.started":
                self.asking()
                if info["request"].method == b"CONNECT":
                    self.stage = Stage.TUNNELLING
            case _:
                pass


def tune(raw: socket.socket) -> None:
    """Set the options of a new connection's socket.

    Raises:
        OSError: The kernel refuses one.
    """
    for level, name, value in _SOCKET_OPTIONS:
        raw.setsockopt(level, name, value)
