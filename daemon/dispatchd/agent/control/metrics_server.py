"""Metrics over TCP, for a scraper that can't reach the control socket; only if configured.

It answers three requests and takes no commands. There is no access control: everybody who can connect can read how
many jobs of each workflow have ended in each way, and nothing else.
"""

from typing import cast

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from attrs import define, field

from dispatchd.agent.control.calls import Limits
from dispatchd.agent.control.connections import Connections, Visitor
from dispatchd.agent.control.routes import Routes
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import NotReachable


@define(kw_only=True)
class MetricsServer:
    """Serves `routes` on a TCP address."""

    host: str
    port: int
    routes: Routes
    bugs: BugFence
    limits: Limits = field(factory=Limits)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Raises:
            NotReachable: The address can't be listened on.
        """
        try:
            listener = await anyio.create_tcp_listener(
                local_host=self.host, local_port=self.port
            )
        except OSError as error:
            cannot = f"serve metrics on {self.host}:{self.port}"
            reason = f"{error.strerror or error}; change metrics.listen"
            raise NotReachable(cannot=cannot, reason=reason) from error
        # The real port if 0 is configured.
        ports = [
            socket_listener.extra(SocketAttribute.local_port)  # noqa: S610  # not Django's
            for socket_listener in listener.listeners
        ]
        self._log.info("metrics_served", host=self.host, port=ports[0])
        connections = Connections(
            server="metrics",
            routes=self.routes,
            limits=self.limits,
            bugs=self.bugs,
            identify=_identify,
        )
        async with listener, anyio.create_task_group() as tasks:
            for socket_listener in listener.listeners:
                tasks.start_soon(
                    connections.take, cast("SocketListener", socket_listener), tasks
                )
            task_status.started()


def _identify(stream: SocketStream) -> Visitor:
    address = stream.extra(SocketAttribute.remote_address)  # noqa: S610  # not Django's
    return Visitor(key=address[0])
