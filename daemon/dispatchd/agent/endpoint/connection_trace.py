"""The way of one request through httpcore: its last stage, and the options of its socket."""

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
    """Follows a request on its way (httpcore's `trace` extension), so that a failure can be located.

    It also sets the options of each new socket: httpcore doesn't pass them on to connections through a proxy.
    """

    proxy: Proxy | None
    """Proxy on its way, with the credentials that it got."""
    stage: Stage = Stage.WAITING
    with_proxy: bool = False
    fresh: bool = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Record one step."""
        match event:
            case "connection.connect_tcp.started":
                self.stage, self.fresh = Stage.CONNECTING, True
                self.with_proxy = self.proxy is not None
            case "connection.connect_tcp.complete":
                raw = info["return_value"].get_extra_info("socket")
                for level, name, value in _SOCKET_OPTIONS:
                    raw.setsockopt(level, name, value)
            case "connection.start_tls.started":
                self.stage = Stage.SECURING
            case "proxy.start_tls.started":
                self.stage, self.with_proxy = Stage.SECURING, False
            case "http11.send_request_headers.started":
                tunnelling = info["request"].method == b"CONNECT"
                self.stage = Stage.TUNNELLING if tunnelling else Stage.ASKING
            case _:
                pass
