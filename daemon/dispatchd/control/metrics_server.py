"""The metrics over TCP, for a scraper that can't reach the control socket; only where it is configured.

It answers three questions and takes no orders. There is no access control: whoever can connect can read how
many jobs of which workflow have ended how, and nothing else.
"""

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from attrs import define, field

from dispatchd.control.calls import Limits, Refused
from dispatchd.control.routes import Routes, carry_out
from dispatchd.control.talk import Talk
from dispatchd.errors import NotReachable


@define(kw_only=True)
class MetricsServer:
    """Serves `routes` on a TCP address."""

    host: str
    port: int
    routes: Routes
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
        # The port that a configured 0 has become.
        ports = [each.extra(SocketAttribute.local_port) for each in listener.listeners]  # noqa: S610  # not Django's
        self._log.info("metrics_served", host=self.host, port=ports[0])
        async with listener:
            task_status.started()
            await listener.serve(self._connection)

    async def _connection(self, stream: SocketStream) -> None:
        async with stream:
            talk = Talk(stream=stream, limits=self.limits)
            try:
                request = await talk.read()
                if request is None:
                    return
                answer = await carry_out(self.routes, *request, None)
            except Refused as refused:
                await talk.refuse(refused)
            else:
                await talk.answer(answer)
